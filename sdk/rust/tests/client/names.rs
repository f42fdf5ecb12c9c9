//! `sdk/names.json` is held: by the methods, the kinds of errors, and the words.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use vyr_client::v0::*;
use vyr_client::{Code, ErrorKind, TaskExt as _, Word};

fn names() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../names.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn list(names: &Value, key: &str) -> Vec<String> {
    names[key].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// The public methods of `Client`, read from the sources: the language can't be asked.
fn methods() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap() {
        let file = syn::parse_file(&std::fs::read_to_string(file.unwrap().path()).unwrap()).unwrap();
        for item in file.items {
            let syn::Item::Impl(of) = item else { continue };
            let syn::Type::Path(path) = &*of.self_ty else { continue };
            if of.trait_.is_some() || !path.path.is_ident("Client") {
                continue;
            }
            for item in of.items {
                if let syn::ImplItem::Fn(method) = item
                    && matches!(method.vis, syn::Visibility::Public(_))
                {
                    found.insert(method.sig.ident.to_string());
                }
            }
        }
    }
    found
}

#[test]
fn the_methods_are_those_of_the_list() {
    let mut listed: BTreeSet<String> = list(&names(), "methods").into_iter().collect();
    // What a language with named arguments and attributes has otherwise.
    listed.extend(["address", "with_retry", "with_traceparent"].map(str::to_owned));
    assert_eq!(methods(), listed);
}

#[test]
fn the_kinds_of_errors_are_those_of_the_list() {
    let names = names();
    let kinds: Vec<_> = ErrorKind::ALL.iter().map(|kind| kind.as_str().to_owned()).collect();
    assert_eq!(kinds, list(&names, "error_kinds"));
    let of_code = names["kind_of_code"].as_object().unwrap();
    assert_eq!(of_code.len(), 16, "all codes but OK");
    for number in 1..=16 {
        let code = Code::from_i32(number);
        // `DeadlineExceeded` is DEADLINE_EXCEEDED.
        let name = format!("{code:?}").chars().fold(String::new(), |mut name, c| {
            if c.is_ascii_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(c.to_ascii_uppercase());
            name
        });
        assert_eq!(of_code[&name], ErrorKind::of_code(code).as_str(), "{name}");
    }
}

/// The words are those of the list, and each is its value's name in the interface.
fn words<W: Word + std::fmt::Debug + PartialEq>(key: &str, prefix: &str, name: fn(&W) -> &'static str) {
    let words: Vec<_> = W::ALL.iter().map(|value| value.word().to_owned()).collect();
    assert_eq!(words, list(&names(), key), "{key}");
    for value in W::ALL {
        assert_eq!(name(value).to_lowercase(), format!("{prefix}_{}", value.word()).to_lowercase());
        assert_eq!(W::from_word(value.word()).as_ref(), Some(value));
    }
    assert!(W::from_word("unknown").is_none());
}

#[test]
fn the_words_are_those_of_the_list() {
    words::<TaskStatus>("statuses", "task_status", TaskStatus::as_str_name);
    words::<EndReason>("end_reasons", "end_reason", EndReason::as_str_name);
    words::<StartTier>("tiers", "start_tier", StartTier::as_str_name);
    words::<ExecutionPath>("paths", "execution_path", ExecutionPath::as_str_name);
    words::<StateClass>("state_classes", "state_class", StateClass::as_str_name);
    words::<StateKind>("state_kinds", "state_kind", StateKind::as_str_name);
    words::<LogStream>("log_streams", "log_stream", LogStream::as_str_name);
    words::<OnInterrupt>("on_interrupt", "on_interrupt", OnInterrupt::as_str_name);
    words::<PullPolicy>("pull", "pull_policy", PullPolicy::as_str_name);
    words::<RetryOn>("retry_on", "retry_on", RetryOn::as_str_name);
    words::<OnBusy>("on_busy", "on_busy", OnBusy::as_str_name);
}

#[test]
fn the_ends_and_their_exit_codes_are_those_of_the_list() {
    let names = names();
    let ends = list(&names, "ends");
    for status in TaskStatus::ALL {
        let task = Task { status: (*status).into(), ..Task::default() };
        assert_eq!(task.has_ended(), ends.contains(&status.word().to_owned()), "{status:?}");
    }
    let code = |reason: EndReason, error_kind: &str| {
        let end = TaskEnd {
            reason: reason.into(),
            exit_code: Some(0x1fe),
            error_kind: error_kind.to_owned(),
            ..TaskEnd::default()
        };
        Task { status: TaskStatus::Failed.into(), end: Some(end), ..Task::default() }.exit_code().unwrap()
    };
    let codes = names["exit_codes"].as_object().unwrap();
    assert_eq!(codes.len(), EndReason::ALL.len());
    for reason in EndReason::ALL {
        match &codes[reason.word()] {
            Value::Number(wanted) => assert_eq!(Some(u64::from(code(*reason, ""))), wanted.as_u64(), "{reason:?}"),
            Value::Object(by_kind) => {
                for kind in ErrorKind::ALL {
                    let wanted = by_kind.get(kind.as_str()).unwrap_or(&by_kind["else"]);
                    assert_eq!(Some(u64::from(code(*reason, kind.as_str()))), wanted.as_u64(), "{kind}");
                }
            }
            words => {
                assert_eq!(words, "the low 8 bits of TaskEnd.exit_code");
                assert_eq!(code(*reason, ""), 0xfe, "{reason:?}");
            }
        }
    }
}
