//! The interface is frozen: the code is what the protocol files say, everything in them is explained, and nothing in
//! them breaks a program that was written against the frozen set.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "test code: a panic is how it reports")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

const PACKAGE: &str = "vyr.control.v0";
/// Set to write what the test makes, instead of comparing with it.
const WRITE: &str = "VYR_PROTO_WRITE";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn compile(source_info: bool) -> FileDescriptorSet {
    let mut compiler = protox::Compiler::new([root()]).expect("the folder of protocol files is there");
    compiler.include_imports(true).include_source_info(source_info);
    compiler.open_file("vyr/control/v0/control.proto").unwrap_or_else(|e| panic!("{e:?}"));
    compiler.file_descriptor_set()
}

fn own(set: &FileDescriptorSet) -> FileDescriptorSet {
    FileDescriptorSet { file: set.file.iter().filter(|f| f.package() == PACKAGE).cloned().collect() }
}

fn same_or_write(path: &Path, made: &[u8]) {
    if std::env::var_os(WRITE).is_some() {
        fs::write(path, made).unwrap();
    }
    let there = fs::read(path).unwrap_or_default();
    assert!(
        there == made,
        "{} is not what the protocol files make; run `{WRITE}=1 cargo test -p vyr-proto` and commit it",
        path.display()
    );
}

#[test]
fn the_generated_code_is_what_the_files_say() {
    let set = compile(true);
    let folder = tempfile::tempdir().unwrap();
    let mut config = prost_build::Config::new();
    config.out_dir(folder.path()).bytes(["."]).btree_map(["."]);
    tonic_prost_build::configure()
        .build_transport(true)
        .out_dir(folder.path())
        .compile_fds_with_config(set, config)
        .unwrap();
    same_or_write(&root().join("src/generated.rs"), &fs::read(folder.path().join(format!("{PACKAGE}.rs"))).unwrap());
    same_or_write(&root().join("src/descriptors.binpb"), &compile(false).encode_to_vec());
}

#[test]
fn everything_is_explained() {
    let set = compile(true);
    let mut bare = Vec::new();
    for file in own(&set).file {
        let info = file.source_code_info.clone().unwrap_or_default();
        let commented: Vec<&[i32]> = info
            .location
            .iter()
            .filter(|l| l.leading_comments.as_ref().is_some_and(|c| c.trim().len() > 3))
            .map(|l| &l.path[..])
            .collect();
        let mut want = |path: Vec<i32>, name: String| {
            if !commented.contains(&&path[..]) {
                bare.push(name);
            }
        };
        // The numbers are those of the fields of FileDescriptorProto and its parts, as SourceCodeInfo.path has them.
        for (i, message) in (0..).zip(&file.message_type) {
            want(vec![4, i], message.name().to_owned());
            for (j, field) in (0..).zip(&message.field) {
                want(vec![4, i, 2, j], format!("{}.{}", message.name(), field.name()));
            }
        }
        for (i, of) in (0..).zip(&file.enum_type) {
            want(vec![5, i], of.name().to_owned());
            for (j, value) in (0..).zip(&of.value) {
                want(vec![5, i, 2, j], value.name().to_owned());
            }
        }
        for (i, service) in (0..).zip(&file.service) {
            want(vec![6, i], service.name().to_owned());
            for (j, method) in (0..).zip(&service.method) {
                want(vec![6, i, 2, j], format!("{}.{}", service.name(), method.name()));
            }
        }
    }
    assert!(bare.is_empty(), "without a comment: {bare:?}");
}

#[test]
fn nothing_breaks_programs_written_against_the_frozen_interface() {
    let path = root().join("frozen/vyr.control.v0.binpb");
    let frozen = FileDescriptorSet::decode(&fs::read(&path).unwrap()[..]).unwrap();
    let broken = breaking(&own(&frozen), &own(&compile(false)));
    assert!(
        broken.is_empty(),
        "Control API v0 is frozen; this would break programs that use it:\n  {}\nadd a new field, value or method \
         instead (docs/api-v0.md says what may change)",
        broken.join("\n  ")
    );
}

#[derive(Default)]
struct Interface<'a> {
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
    methods: BTreeMap<String, (String, String, bool, bool)>,
}

impl<'a> Interface<'a> {
    fn of(set: &'a FileDescriptorSet) -> Self {
        let mut found = Self::default();
        for file in &set.file {
            for message in &file.message_type {
                found.message(file.package(), message);
            }
            for of in &file.enum_type {
                found.enums.insert(format!("{}.{}", file.package(), of.name()), of);
            }
            for service in &file.service {
                for method in &service.method {
                    found.methods.insert(
                        format!("{}.{}/{}", file.package(), service.name(), method.name()),
                        (
                            method.input_type().to_owned(),
                            method.output_type().to_owned(),
                            method.client_streaming(),
                            method.server_streaming(),
                        ),
                    );
                }
            }
        }
        found
    }

    fn message(&mut self, above: &str, message: &'a DescriptorProto) {
        let name = format!("{above}.{}", message.name());
        for inner in &message.nested_type {
            self.message(&name, inner);
        }
        for of in &message.enum_type {
            self.enums.insert(format!("{name}.{}", of.name()), of);
        }
        self.messages.insert(name, message);
    }
}

/// What a program sees of a field: its number and type on the wire, its name in JSON and in generated code.
fn look(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let label = if field.label() == Label::Repeated { "repeated " } else { "" };
    let presence = if field.proto3_optional() { "optional " } else { "" };
    let group = match field.oneof_index.filter(|_| !field.proto3_optional()) {
        Some(i) => format!(" in oneof {}", message.oneof_decl[usize::try_from(i).unwrap()].name()),
        None => String::new(),
    };
    let of = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
        other => format!("{other:?}").to_lowercase(),
    };
    format!("{presence}{label}{of} {} = {}{group}", field.name(), field.number())
}

/// What of `old` is not in `new` as it was. Additions are not looked at: they break nothing.
fn breaking(old: &FileDescriptorSet, new: &FileDescriptorSet) -> Vec<String> {
    let (old, new) = (Interface::of(old), Interface::of(new));
    let mut broken = Vec::new();
    for (name, message) in &old.messages {
        let Some(now) = new.messages.get(name) else {
            broken.push(format!("message {name} is gone"));
            continue;
        };
        for field in &message.field {
            let was = look(message, field);
            match now.field.iter().find(|f| f.name() == field.name()) {
                None => broken.push(format!("field {name}.{} is gone (it was `{was}`)", field.name())),
                Some(f) if look(now, f) != was => broken.push(format!(
                    "field {name}.{} has changed: it was `{was}` and is `{}`",
                    field.name(),
                    look(now, f)
                )),
                Some(_) => {}
            }
        }
    }
    for (name, of) in &old.enums {
        let Some(now) = new.enums.get(name) else {
            broken.push(format!("enum {name} is gone"));
            continue;
        };
        for value in &of.value {
            match now.value.iter().find(|v| v.name() == value.name()) {
                None => broken.push(format!("value {name}.{} is gone", value.name())),
                Some(v) if v.number() != value.number() => broken.push(format!(
                    "value {name}.{} has changed: it was {} and is {}",
                    value.name(),
                    value.number(),
                    v.number()
                )),
                Some(_) => {}
            }
        }
    }
    for (name, signature) in &old.methods {
        match new.methods.get(name) {
            None => broken.push(format!("method {name} is gone")),
            Some(now) if now != signature => broken.push(format!("method {name} has another request or response")),
            Some(_) => {}
        }
    }
    broken
}

#[test]
fn the_comparison_names_what_breaks_and_lets_additions_pass() {
    let old = own(&compile(false));
    let change = |f: &dyn Fn(&mut FileDescriptorSet)| {
        let mut new = old.clone();
        f(&mut new);
        breaking(&old, &new).join("; ")
    };
    fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut DescriptorProto {
        set.file.iter_mut().flat_map(|f| &mut f.message_type).find(|m| m.name() == name).unwrap()
    }
    assert_eq!(change(&|_| {}), "");
    assert_eq!(
        change(&|set| message(set, "Task").field.push(FieldDescriptorProto {
            name: Some("novel".into()),
            number: Some(99),
            r#type: Some(Type::String.into()),
            ..Default::default()
        })),
        "",
        "an addition breaks nothing"
    );
    let renumbered = change(&|set| message(set, "Task").field[0].number = Some(98));
    assert!(renumbered.contains("field vyr.control.v0.Task.id has changed"), "{renumbered}");
    let gone = change(&|set| drop(message(set, "Limits").field.remove(1)));
    assert!(gone.contains("field vyr.control.v0.Limits.timeout is gone"), "{gone}");
    let typed = change(&|set| message(set, "Limits").field[0].r#type = Some(Type::String.into()));
    assert!(typed.contains("Limits.memory_bytes has changed"), "{typed}");
    let value = change(&|set| {
        let of = set.file.iter_mut().flat_map(|f| &mut f.enum_type).find(|e| e.name() == "TaskStatus").unwrap();
        of.value[3].number = Some(33);
    });
    assert!(value.contains("TaskStatus.TASK_STATUS_RUNNING has changed"), "{value}");
    let method = change(&|set| {
        let service = set.file.iter_mut().flat_map(|f| &mut f.service).next().unwrap();
        service.method.retain(|m| m.name() != "WatchTask");
    });
    assert!(method.contains("method vyr.control.v0.Control/WatchTask is gone"), "{method}");
    let streamed = change(&|set| {
        let service = set.file.iter_mut().flat_map(|f| &mut f.service).next().unwrap();
        service.method.iter_mut().find(|m| m.name() == "GetTask").unwrap().server_streaming = Some(true);
    });
    assert!(streamed.contains("GetTask has another request or response"), "{streamed}");
}

#[test]
fn what_v0_leaves_out_on_purpose_is_not_there() {
    let set = own(&compile(false));
    for (name, _) in Interface::of(&set).methods {
        let lower = name.to_lowercase();
        for word in ["policy", "simulate", "explain", "place", "schedule", "cluster", "peer"] {
            assert!(!lower.contains(word), "{name} belongs to no version 0");
        }
    }
}
