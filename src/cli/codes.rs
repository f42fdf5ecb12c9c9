//! Owns what the exit codes are called where people look them up: the manual pages, the reference.

/// Each code of VYR's own with what it stands for.
pub(super) const CODES: [(u8, &str); 8] = [
    (1, "of replay: it went another way"),
    (2, "the command line or a setting can't be read"),
    (124, "a time limit has passed"),
    (125, "VYR itself failed: what it needs is missing, can't be reached or can't be written"),
    (126, "refused: a digest, a signature or the trust policy says no"),
    (127, "there is no such artifact, task or state"),
    (130, "cancelled"),
    (134, "the guest trapped"),
];

/// The sections that every manual page ends with, in `man`'s own language.
pub(super) fn manual_sections() -> String {
    let mut text = String::from(
        ".SH \"EXIT STATUS\"\n\\fBrun\\fR, \\fBwait\\fR and \\fBsubmit \\-\\-wait\\fR exit with the guest's own code. Else:\n",
    );
    for (code, meaning) in std::iter::once((0, "done")).chain(CODES) {
        text.push_str(&format!(".TP\n\\fB{code}\\fR\n{meaning}\n"));
    }
    text.push_str(concat!(
        ".SH ENVIRONMENT\n",
        ".TP\n\\fBVYR_HOME\\fR\nthe data folder; without it \\fIvyr\\fR in the XDG data folder\n",
        ".TP\n\\fBVYR_NODE\\fR\nthe node of the task verbs: http://HOST:PORT, https://HOST:PORT or unix:PATH\n",
        ".TP\n\\fBVYR_TOKEN\\fR, \\fBVYR_TOKEN_FILE\\fR\nthe bearer token that it asks for\n",
        ".TP\n\\fBVYR_LOG\\fR\nwhat to log to stderr: \\fIdebug\\fR, \\fIvyr::registry=trace\\fR\n",
        ".TP\n\\fBDOCKER_CONFIG\\fR\nthe folder of the file with the registries' logins; without it \\fI~/.docker\\fR\n",
        ".PP\ndocs/reference/environment.md has them all.\n",
        ".SH FILES\n",
        ".TP\n\\fI$VYR_HOME/config.toml\\fR\nsettings\n",
        ".TP\n\\fI$VYR_HOME/trust.toml\\fR\nthe trust policy: whose signatures are accepted for which repositories\n",
        ".TP\n\\fI$VYR_HOME/store\\fR\nthe artifacts, an OCI image layout\n",
        ".TP\n\\fI$VYR_HOME/keys\\fR\nthis machine's signing key\n",
        ".TP\n\\fI$VYR_HOME/node.sock\\fR\nthe node's socket, while one serves the folder\n",
    ));
    text
}
