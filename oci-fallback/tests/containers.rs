mod support;
fn main() {
    vyr_oci_fallback::keeper::run_if_asked();
    support::quick();
}
