//! Makes docs/reference/api.md out of the protocol files: every call, message, field and value with its comment.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, anyhow};
use clap::Args;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, ServiceDescriptorProto,
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Write the page instead
    #[arg(long)]
    write: bool,
}

const PACKAGE: &str = "vyr.control.v0";

pub(crate) fn run(options: &Options) -> Result<bool> {
    let root = crate::project()?;
    let (page, path) = (page(&root.join("proto"))?, root.join("docs/reference/api.md"));
    if options.write {
        std::fs::write(&path, page)?;
        println!("{} is written", crate::shown(&path));
        return Ok(true);
    }
    let good = std::fs::read_to_string(&path).is_ok_and(|there| there == page);
    if good {
        println!("{} says what the protocol files say", crate::shown(&path));
    } else {
        println!("{} is not what the protocol files say; run: docs-check api --write", crate::shown(&path));
    }
    Ok(good)
}

fn page(protos: &Path) -> Result<String> {
    let mut compiler = protox::Compiler::new([protos])?;
    compiler
        .include_source_info(true)
        .open_file("vyr/control/v0/control.proto")
        .map_err(|error| anyhow!("{error:?}"))?;
    let mut files = compiler.include_imports(true).file_descriptor_set().file;
    files.retain(|file| file.package() == PACKAGE);
    // The service first; what it is made of in the order of its calls.
    let order = ["control", "artifact", "task", "state", "node"];
    files.sort_by_key(|file| order.iter().position(|name| file.name().ends_with(&format!("{name}.proto"))));

    let mut text = String::from(
        "# Control API v0: calls and messages\n\n\
         <!-- Made from proto/vyr/control/v0 by `docs-check api --write`: change the comments there. -->\n\n\
         What is in the protocol files, for reading. [Control API v0](../api-v0.md) says what it means together: errors, a task's \
         life, limits, guarantees. Names in JSON are the same in camel case (`stateId`), as gRPC's tools have it.\n",
    );
    for file in &files {
        let comments = Comments::of(file);
        for (at, service) in (0..).zip(&file.service) {
            service_text(&mut text, service, at, &comments)?;
        }
    }
    for file in &files {
        if file.message_type.is_empty() && file.enum_type.is_empty() {
            continue;
        }
        let comments = Comments::of(file);
        let name = Path::new(file.name()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        writeln!(text, "\n## Messages of {name}")?;
        for (at, message) in (0..).zip(&file.message_type) {
            message_text(&mut text, message, &[4, at], message.name(), &comments)?;
        }
        for (at, values) in (0..).zip(&file.enum_type) {
            enum_text(&mut text, values, &[5, at], &comments)?;
        }
    }
    Ok(text)
}

/// A file's comments by the path of what they stand before, as SourceCodeInfo has it: numbers of fields of the descriptors,
/// and places in them.
struct Comments(BTreeMap<Vec<i32>, String>);

impl Comments {
    fn of(file: &FileDescriptorProto) -> Self {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let comment = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned();
        Self(locations.map(|place| (place.path.clone(), comment(place.leading_comments()))).collect())
    }

    fn at(&self, path: &[i32], more: &[i32]) -> &str {
        self.0.get(&[path, more].concat()).map_or("", String::as_str)
    }
}

/// In a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

/// A type of this package with a link to it; another one by its name.
fn type_name(full: &str) -> String {
    match full.strip_prefix(&format!(".{PACKAGE}.")) {
        Some(own) => format!("[{own}](#{})", own.to_lowercase().replace('.', "")),
        None => full.trim_start_matches('.').trim_start_matches("google.protobuf.").to_owned(),
    }
}

fn service_text(text: &mut String, service: &ServiceDescriptorProto, at: i32, comments: &Comments) -> Result<()> {
    writeln!(text, "\n## Service {}\n\n{}", service.name(), comments.at(&[6, at], &[]))?;
    writeln!(text)?;
    for (number, method) in (0..).zip(&service.method) {
        let side = |stream: bool, name: &str| format!("{}{}", if stream { "stream of " } else { "" }, type_name(name));
        let request = side(method.client_streaming(), method.input_type());
        let answer = side(method.server_streaming(), method.output_type());
        let what = comments.at(&[6, at, 2, number], &[]).replace('<', "&lt;");
        writeln!(text, "- **{}**: {request} → {answer}. {what}", method.name())?;
    }
    Ok(())
}

fn message_text(
    text: &mut String,
    message: &DescriptorProto,
    path: &[i32],
    name: &str,
    comments: &Comments,
) -> Result<()> {
    writeln!(text, "\n### {name}\n\n{}", comments.at(path, &[]))?;
    if !message.field.is_empty() {
        writeln!(text, "\n| field | type | number | |\n| --- | --- | --- | --- |")?;
    }
    for (at, field) in (0..).zip(&message.field) {
        let mut what = cell(comments.at(path, &[2, at]));
        if let (Some(one), false) = (field.oneof_index, field.proto3_optional()) {
            let name = message.oneof_decl.get(usize::try_from(one)?).map_or("", |decl| decl.name());
            what = format!("One of `{name}`. {what}");
        }
        writeln!(text, "| `{}` | {} | {} | {what} |", field.name(), field_type(field, message), field.number())?;
    }
    for (at, nested) in (0..).zip(&message.nested_type) {
        if !nested.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry) {
            message_text(text, nested, &[path, &[3, at]].concat(), &format!("{name}.{}", nested.name()), comments)?;
        }
    }
    Ok(())
}

fn field_type(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let scalar = |field: &FieldDescriptorProto| match field.r#type() {
        Type::Message | Type::Enum => type_name(field.type_name()),
        other => other.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    // A map is a repeated message that the compiler makes.
    let entry = message.nested_type.iter().find(|nested| {
        nested.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry)
            && field.type_name().ends_with(&format!(".{}", nested.name()))
    });
    if let Some([key, value]) = entry.map(|entry| &entry.field[..]) {
        return format!("map of {} to {}", scalar(key), scalar(value));
    }
    match field.label() {
        Label::Repeated => format!("list of {}", scalar(field)),
        _ if field.proto3_optional() => format!("{}, optional", scalar(field)),
        _ => scalar(field),
    }
}

fn enum_text(text: &mut String, values: &EnumDescriptorProto, path: &[i32], comments: &Comments) -> Result<()> {
    writeln!(text, "\n### {}\n\n{}", values.name(), comments.at(path, &[]))?;
    writeln!(text, "\n| value | number | |\n| --- | --- | --- |")?;
    for (at, value) in (0..).zip(&values.value) {
        writeln!(text, "| `{}` | {} | {} |", value.name(), value.number(), cell(comments.at(path, &[2, at])))?;
    }
    Ok(())
}
