//! Compiles the protocol files with protox: no `protoc` on the machine is needed.
//!
//! The generated messages of the public package also get their textual form (serde), the one that
//! job files, `-o json` and `/api/v1` share. What a field needs follows from its type alone and is
//! therefore read from the descriptors here, so that a new field needs no second declaration:
//! instants, durations and enums are text (`src/pb/`), unknown keys are refused. Messages that a
//! job file is made of leave out what is not set; all others write every field.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// The messages whose fields, at any depth, make up a file.
const FILES: [&str; 2] = ["JobSpec", "CalendarSpec"];
/// Messages that a single word may stand for in a job file: `overlap: skip`.
const SHORT: [&str; 2] = ["CatchUp", "Overlap"];
/// The message that a list of names, or one name, may stand for: `after: [load]`.
const NAMES: &str = "After";
/// The message with texts that are JSON, and those texts; in a job file the value may stand there: `args: [1, 2]`.
const JSON: (&str, [&str; 4]) = ("CeleryTarget", ["args", "kwargs", "headers", "template"]);
/// Spoken between nodes and workers in binary form alone.
const NO_TEXT: &str = "chronarch/v1/worker.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let public =
        ["job", "output", "run", "breaker", "queue", "namespace", "calendar", "cluster", "fleet", "worker"];
    let mut files: Vec<String> = public.iter().map(|name| format!("chronarch/v1/{name}.proto")).collect();
    files.push("chronarch/peer/v1/raft.proto".to_owned());

    let descriptors = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // What reflection serves: the public package alone, with what it imports.
    let reflected = protox::compile(&files[..public.len()], ["proto"])?;
    std::fs::write(out.join("chronarch.v1.bin"), prost::Message::encode_to_vec(&reflected))?;

    let mut config = prost_build::Config::new();
    config.btree_map(["."]);
    config.bytes([".chronarch.peer.v1"]);
    std::fs::write(out.join("words.rs"), words(&reflected)?)?;
    give_text(&mut config, &reflected);
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// Adds the serde attributes to the messages of the public package.
fn give_text(config: &mut prost_build::Config, set: &FileDescriptorSet) {
    let messages: Vec<&DescriptorProto> = set
        .file
        .iter()
        .filter(|file| file.package() == "chronarch.v1" && file.name() != NO_TEXT)
        .flat_map(|file| &file.message_type)
        .collect();
    let sparse = reachable(&messages, &FILES);
    for message in &messages {
        let path = format!(".chronarch.v1.{}", message.name());
        config.message_attribute(&path, "#[derive(serde::Serialize, serde::Deserialize)]");
        config.message_attribute(&path, "#[serde(default, deny_unknown_fields)]");
        for field in message.field.iter().filter(|field| !is_map(message, field)) {
            if message.name() == JSON.0 && JSON.1.contains(&field.name()) {
                let with = "#[serde(with = \"crate::pb::json\")]";
                config.field_attribute(format!("{path}.{}", field.name()), with);
            }
            for attribute in field_text(field, sparse.contains(message.name())) {
                config.field_attribute(format!("{path}.{}", field.name()), format!("#[serde({attribute})]"));
            }
        }
        for field in message.field.iter().filter(|field| is_map(message, field)) {
            if sparse.contains(message.name()) {
                let attribute = "#[serde(skip_serializing_if = \"crate::pb::short::is_default\")]";
                config.field_attribute(format!("{path}.{}", field.name()), attribute);
            }
        }
    }
}

/// The serde attributes of one field that is no map.
fn field_text(field: &FieldDescriptorProto, sparse: bool) -> Vec<String> {
    let list = field.label() == Label::Repeated;
    let target = field.type_name().rsplit('.').next().unwrap_or_default();
    let mut attributes = Vec::new();
    match (field.r#type(), field.type_name()) {
        (Type::Enum, _) => {
            let form = if list { "WordList" } else { "Word" };
            attributes.push(format!("with = \"crate::pb::word::{form}::<crate::pb::v1::{target}>\""));
        }
        (_, ".google.protobuf.Timestamp") => {
            let form = if list { "list" } else { "option" };
            attributes.push(format!("with = \"crate::pb::instant::{form}\""));
        }
        (_, ".google.protobuf.Duration") => attributes.push("with = \"crate::pb::span::option\"".to_owned()),
        (Type::Message, _) if SHORT.contains(&target) => {
            attributes.push("deserialize_with = \"crate::pb::short::word_or_mapping\"".to_owned());
        }
        (Type::Message, _) if target == NAMES => {
            attributes.push("deserialize_with = \"crate::pb::short::names_or_mapping\"".to_owned());
        }
        (Type::Message, _) if list && target == "Schedule" => {
            attributes.push("deserialize_with = \"crate::pb::short::one_or_list\"".to_owned());
        }
        _ => {}
    }
    if sparse {
        attributes.push("skip_serializing_if = \"crate::pb::short::is_default\"".to_owned());
    }
    attributes
}

fn is_map(message: &DescriptorProto, field: &FieldDescriptorProto) -> bool {
    message.nested_type.iter().any(|nested| {
        nested.options.as_ref().is_some_and(|options| options.map_entry())
            && field.type_name().ends_with(&format!(".{}.{}", message.name(), nested.name()))
    })
}

/// The names of the roots and of every message that they hold, at any depth.
fn reachable(messages: &[&DescriptorProto], roots: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open: Vec<String> = roots.iter().copied().map(str::to_owned).collect();
    while let Some(name) = open.pop() {
        let Some(message) = messages.iter().find(|message| message.name() == name) else { continue };
        if found.insert(name) {
            let fields = message.field.iter().filter(|field| field.r#type() == Type::Message);
            open.extend(fields.filter_map(|field| field.type_name().rsplit('.').next().map(str::to_owned)));
        }
    }
    found
}

/// Rust source that names the words of every enum: `GAP_RUN_AT_END` of `Gap` is `run_at_end`.
fn words(set: &FileDescriptorSet) -> Result<String, std::fmt::Error> {
    let mut source = String::new();
    let files = set.file.iter().filter(|file| file.package() == "chronarch.v1");
    for declared in files.flat_map(|file| &file.enum_type) {
        let name = declared.name();
        writeln!(
            source,
            "impl Words for super::v1::{name} {{\n    const WORDS: &'static [(i32, &'static str)] = &["
        )?;
        for (number, word) in words_of(declared) {
            writeln!(source, "        ({number}, \"{word}\"),")?;
        }
        writeln!(source, "    ];\n}}")?;
    }
    Ok(source)
}

/// Number and word of each value but the unspecified one.
fn words_of(declared: &EnumDescriptorProto) -> Vec<(i32, String)> {
    let mut prefix = String::new();
    for letter in declared.name().chars() {
        if letter.is_ascii_uppercase() && !prefix.is_empty() {
            prefix.push('_');
        }
        prefix.push(letter.to_ascii_uppercase());
    }
    prefix.push('_');
    let values = declared.value.iter().filter(|value| value.number() != 0);
    values
        .map(|value| {
            let word = value.name().strip_prefix(&prefix).unwrap_or(value.name());
            (value.number(), word.to_ascii_lowercase())
        })
        .collect()
}
