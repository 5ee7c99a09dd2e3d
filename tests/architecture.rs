//! Keeps the import edges of `docs/ARCHITECTURE.md` and the style of the sources, by reading them.
//!
//! The sources are reduced to their code first: comments, the contents of string literals, and
//! `#[cfg(test)]` modules are left out where a rule is about the broker itself. Every rule is also
//! tried on sources that break it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::{fs, path::Path};

/// What each module may import from this crate. A module that is missing here is an error: its
/// place has to be decided.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("codec", &["limits"]),
    ("pages", &[]),
    ("topics", &["limits", "codec", "pages"]),
    ("session", &["limits", "codec", "record"]),
    ("auth", &["limits", "codec"]),
    // A counter has a cache line of its own, as `mesh` lays them out.
    ("stats", &["limits", "mesh"]),
    ("mesh", &["limits"]),
    ("record", &[]),
    ("store", &["limits", "record", "stats"]),
    ("broker", &["limits", "codec", "pages", "topics", "session", "auth", "stats", "record"]),
    ("cli", &["limits", "codec", "topics"]),
    ("transport", &["limits"]),
    (
        "shard",
        &[
            "limits",
            "codec",
            "topics",
            "session",
            "auth",
            "stats",
            "record",
            "broker",
            "mesh",
            "store",
            "cli",
            "transport",
        ],
    ),
    ("control", &["limits", "auth", "stats", "mesh", "store", "cli"]),
    ("main", &["cli", "shard", "control"]),
];

/// Where code from outside may be named: `(path, modules that may, why)`. A path ends at a word
/// boundary. Tests in the modules may do as they like.
const CONFINED: &[(&str, &[&str], &str)] = &[
    ("monoio", &["shard", "transport"], "the runtime is the reactor's business alone"),
    ("io_uring", &["shard", "transport"], "the runtime is the reactor's business alone"),
    ("tokio", &["control"], "the data plane has a runtime of its own"),
    (
        "bytes",
        &["codec", "topics", "session", "record", "broker", "shard", "transport", "store"],
        "mesh and \
        limits hold no messages",
    ),
];

/// What the modules that are pure must not name: they are given the time, bytes and random numbers.
const IMPURE: &[&str] = &[
    "Instant",
    "SystemTime",
    "UNIX_EPOCH",
    "thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "ToSocketAddrs",
    "getrandom",
    "rand",
    "thread_rng",
    "socket2",
    "rustix",
    "libc",
    "fs",
    "env",
    "process",
];
const PURE: &[&str] = &["limits", "codec", "pages", "topics", "session", "record", "broker"];

/// `fastrand`'s own generator, which seeds itself from the clock and the thread.
const SELF_SEEDED: &[&str] = &[
    "fastrand::Rng::new",
    "Rng::default",
    "fastrand::u8",
    "fastrand::u16",
    "fastrand::u32",
    "fastrand::u64",
    "fastrand::u128",
    "fastrand::usize",
    "fastrand::bool",
    "fastrand::shuffle",
    "RandomState::new",
];

/// The files that may contain `unsafe`, and what for.
const UNSAFE: &[(&str, &str)] = &[
    ("src/mesh/descriptor_table.rs", "unshare(CLONE_FILES) is only sound before descriptors part"),
    (
        "src/shard/mod.rs",
        "a connection's descriptor is borrowed from the number that its task owns",
    ),
    ("src/shard/slice.rs", "sched_setattr, which no library has"),
    ("src/shard/trim.rs", "the C library is asked to give memory back"),
    ("src/transport/send_ring.rs", "the ring is told addresses, and waited for before they go"),
    ("src/transport/socket.rs", "monoio's stream has a descriptor but does not implement AsFd"),
];

const MAX_LINES: usize = 600;
const FORBIDDEN_MACROS: &[&str] = &["todo!", "dbg!", "unimplemented!"];

/// A source file, reduced to what rules look at.
struct Source {
    /// With `/`, relative to the repository.
    path: String,
    text: String,
    /// Without comments, string contents and test modules; as many lines as the text.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = without_tests(&without_comments(text));
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    /// The top-level module that it is part of; `None` for the root of the library.
    fn module(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src/")?;
        let first = below.split('/').next()?;
        let name = first.strip_suffix(".rs").unwrap_or(first);
        (name != "lib").then_some(name)
    }

    /// Whether the whole file is tests.
    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        !self.path.starts_with("src/")
            || self.path.contains("/tests/")
            || name == "tests.rs"
            || name == "testing.rs"
            || name.ends_with("_tests.rs")
    }
}

/// Blanks comments, and what is inside string and character literals; keeps line breaks.
fn without_comments(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let at = |n: usize| characters.get(n).copied().unwrap_or('\0');
    let mut code = String::with_capacity(text.len());
    let mut n = 0;
    while n < characters.len() {
        let end = match (at(n), at(n + 1)) {
            ('/', '/') => end_of_line(&characters, n),
            ('/', '*') => end_of_block(&characters, n),
            ('"', _) => end_of_string(&characters, n),
            ('r', '"' | '#') if !is_word(at(n.wrapping_sub(1))) => end_of_raw(&characters, n),
            // A character, not a lifetime.
            ('\'', '\\') => end_of_character(&characters, n),
            ('\'', _) if at(n + 2) == '\'' => n + 3,
            _ => n,
        };
        if end == n {
            code.push(at(n));
            n += 1;
            continue;
        }
        for &character in characters.get(n..end).unwrap_or_default() {
            code.push(if character == '\n' { '\n' } else { ' ' });
        }
        n = end;
    }
    code
}

fn end_of_line(characters: &[char], start: usize) -> usize {
    characters[start..].iter().position(|&c| c == '\n').map_or(characters.len(), |n| start + n)
}

fn end_of_block(characters: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut n = start;
    while n + 1 < characters.len() {
        match (characters[n], characters[n + 1]) {
            ('/', '*') => (depth, n) = (depth + 1, n + 2),
            ('*', '/') => (depth, n) = (depth - 1, n + 2),
            _ => n += 1,
        }
        if depth == 0 {
            return n;
        }
    }
    characters.len()
}

fn end_of_string(characters: &[char], start: usize) -> usize {
    let mut n = start + 1;
    while n < characters.len() {
        match characters[n] {
            '\\' => n += 2,
            '"' => return n + 1,
            _ => n += 1,
        }
    }
    characters.len()
}

fn end_of_raw(characters: &[char], start: usize) -> usize {
    let hashes = characters[start + 1..].iter().take_while(|&&c| c == '#').count();
    // `r#name` is a word, not a string.
    if characters.get(start + 1 + hashes) != Some(&'"') {
        return start;
    }
    let mut close = vec!['"'];
    close.extend(std::iter::repeat_n('#', hashes));
    let body = start + 2 + hashes;
    let end = characters[body..].windows(close.len()).position(|window| window == close);
    end.map_or(characters.len(), |n| body + n + close.len())
}

fn end_of_character(characters: &[char], start: usize) -> usize {
    // The character behind the backslash may itself be a quote.
    let rest = characters.get(start + 3..).unwrap_or_default();
    rest.iter().position(|&c| c == '\'').map_or(characters.len(), |n| start + 3 + n + 1)
}

/// Blanks `#[cfg(test)]` items that have braces.
fn without_tests(code: &str) -> String {
    let mut rest = code;
    let mut kept = String::with_capacity(code.len());
    while let Some(start) = rest.find("#[cfg(test)]") {
        let item = &rest[start..];
        let end = match (item.find('{'), item.find(';')) {
            (Some(open), semicolon) if semicolon.is_none_or(|at| open < at) => {
                end_of_braces(item, open)
            }
            (_, Some(semicolon)) => semicolon + 1,
            _ => item.len(),
        };
        kept.push_str(&rest[..start]);
        kept.extend(item[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &item[end..];
    }
    kept.push_str(rest);
    kept
}

fn end_of_braces(text: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, character) in text.char_indices().skip_while(|&(at, _)| at < open) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The lines, from 1, on which `word` stands by itself.
fn lines_with<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let places = code.match_indices(word).filter(move |(at, _)| {
        let before = code[..*at].chars().next_back().is_none_or(|c| !is_word(c));
        let after = code[at + word.len()..].chars().next().is_none_or(|c| !is_word(c));
        before && (after || word.ends_with('!'))
    });
    places.map(|(at, _)| code[..at].matches('\n').count() + 1)
}

/// The modules of this crate that the code names, with the lines: `crate::module`,
/// `crate::{module, ...}` and, as the binary writes it, `ringmq::module`.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let code = &source.code;
    let root = if source.module() == Some("main") { "ringmq::" } else { "crate::" };
    let mut found = Vec::new();
    for (at, _) in code.match_indices(root) {
        if code[..at].chars().next_back().is_some_and(|c| is_word(c) || c == ':') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let path = &code[at + root.len()..];
        if let Some(list) = path.strip_prefix('{') {
            let list = &list[..end_of_braces(path, 0).saturating_sub(2)];
            found.extend(first_words(list).into_iter().map(|word| (line, word)));
        } else {
            found.push((line, path.chars().take_while(|&c| is_word(c)).collect()));
        }
    }
    found.extend(super_imports(source));
    found
}

/// In `src/a/b.rs`, `super::super::c` and beyond is another module of the crate.
fn super_imports(source: &Source) -> Vec<(usize, String)> {
    let depth = source.path.trim_end_matches("/mod.rs").matches('/').count();
    let up = "super::".repeat(depth);
    let found =
        source.code.match_indices(&up).filter(|(at, _)| !source.code[..*at].ends_with("::"));
    found
        .map(|(at, _)| {
            let line = source.code[..at].matches('\n').count() + 1;
            let path = &source.code[at + up.len()..];
            (line, path.chars().take_while(|&c| is_word(c)).collect())
        })
        .collect()
}

/// The first word of each item of a list, whatever is nested in it.
fn first_words(list: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut depth, mut ended) = (0, false);
    for character in list.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                words.push(String::new());
                ended = false;
            }
            c if is_word(c) && depth == 0 && !ended => words.last_mut().unwrap().push(c),
            c if !c.is_whitespace() => ended = true,
            _ => {}
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn check_imports(source: &Source) -> Vec<String> {
    let Some(module) = source.module() else { return Vec::new() };
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{}: the module {module} has no place in MAY_IMPORT", source.path)];
    };
    if source.is_test() {
        return Vec::new();
    }
    let wrong = |name: &str| {
        name != module && name != "self" && name != "super" && !allowed.contains(&name)
    };
    imports(source)
        .into_iter()
        .filter(|(_, name)| name.starts_with(char::is_lowercase) && wrong(name))
        .map(|(line, name)| format!("{}:{line}: {module} may not import {name}", source.path))
        .collect()
}

fn check_confined(source: &Source) -> Vec<String> {
    let Some(module) = source.module().filter(|_| !source.is_test()) else { return Vec::new() };
    let mut wrong = Vec::new();
    for (path, modules, why) in CONFINED.iter().filter(|(_, modules, _)| !modules.contains(&module))
    {
        let code = &source.code;
        let uses = lines_with(code, path).filter(|&line| names_crate(code, line, path));
        wrong.extend(uses.map(|line| {
            format!("{}:{line}: {path} is only for {}: {why}", source.path, modules.join(", "))
        }));
    }
    if PURE.contains(&module) {
        for word in IMPURE {
            let code = &source.code;
            let uses = lines_with(code, word).filter(|&line| names_item(code, line, word));
            wrong.extend(uses.map(|line| {
                format!("{}:{line}: {module} is pure, it may not use {word}", source.path)
            }));
        }
        for path in SELF_SEEDED {
            wrong.extend(lines_with(&source.code, path).map(|line| {
                format!("{}:{line}: {module} is given its randomness: {path}", source.path)
            }));
        }
    }
    wrong
}

fn line_of(code: &str, line: usize) -> &str {
    code.lines().nth(line - 1).unwrap_or_default()
}

/// Whether the line names the crate, and not a variable or field of that name.
fn names_crate(code: &str, line: usize, name: &str) -> bool {
    let text = line_of(code, line);
    text.contains(&format!("{name}::"))
        || text.contains(&format!("use {name};"))
        || text.contains(&format!("extern crate {name}"))
}

/// Whether the line names a type, or a module in a path or in a list of imports.
fn names_item(code: &str, line: usize, name: &str) -> bool {
    if name.starts_with(char::is_uppercase) {
        return true;
    }
    let text = line_of(code, line);
    let in_path = text.contains(&format!("{name}::")) || text.contains(&format!("::{name}"));
    // `use std::{fs, thread}` over several lines: the statement is looked for backwards.
    let before: Vec<&str> = code.lines().take(line).collect();
    let statement = before.iter().rposition(|line| line.trim_start().starts_with("use "));
    let in_list = statement.is_some_and(|start| {
        let statement = before[start..].join("\n");
        statement.contains("std::{") && !statement.contains(';')
            || line == start + 1 && statement.contains("std::")
    });
    in_path || in_list
}

fn check_style(source: &Source) -> Vec<String> {
    let path = &source.path;
    let mut wrong = Vec::new();
    let lines = source.text.lines().count();
    if lines > MAX_LINES && !source.is_test() {
        wrong.push(format!("{path}: {lines} lines, more than {MAX_LINES}: split it"));
    }
    if source.text.trim().is_empty() {
        wrong.push(format!("{path}: an empty file"));
    } else if !source.is_test() && !source.text.starts_with("//!") {
        wrong.push(format!("{path}:1: a file begins with what it is (`//!`)"));
    }
    for word in FORBIDDEN_MACROS {
        let uses = lines_with(&source.code, word);
        wrong.extend(uses.map(|line| format!("{path}:{line}: {word} is left over")));
    }
    if !UNSAFE.iter().any(|(file, _)| file == path) {
        let uses = lines_with(&source.code, "unsafe");
        wrong.extend(uses.map(|line| format!("{path}:{line}: unsafe, but not listed in UNSAFE")));
    }
    wrong
}

fn check(source: &Source) -> Vec<String> {
    [check_imports(source), check_confined(source), check_style(source)].concat()
}

/// All sources below a folder.
fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                found.push(Source::new(&path, &text));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

#[test]
fn the_sources_keep_the_rules() {
    let sources = sources("src");
    assert!(sources.len() > 50, "only {} sources found", sources.len());
    let wrong: Vec<String> = sources.iter().flat_map(check).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// A list with an entry that nothing needs any more hides the next mistake.
#[test]
fn the_list_of_unsafe_files_is_up_to_date() {
    let sources = sources("src");
    for (path, why) in UNSAFE {
        let source = sources.iter().find(|source| source.path == *path);
        let source =
            source.unwrap_or_else(|| panic!("{path} is listed in UNSAFE, but is not there"));
        assert!(lines_with(&source.code, "unsafe").next().is_some(), "{path} has no unsafe: {why}");
    }
}

#[test]
fn the_map_in_the_library_names_every_module() {
    let library = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"));
    let library = library.unwrap();
    for source in sources("src") {
        let Some(module) = source.module().filter(|module| *module != "main") else { continue };
        // In brackets where it is public.
        let rows = [format!("//! | [`{module}`]"), format!("//! | `{module}`")];
        assert!(rows.iter().any(|row| library.contains(row)), "lib.rs does not name {module}");
    }
}

/// What the rules say of a source, without the place.
fn complaints(path: &str, text: &str) -> Vec<String> {
    let wrong = check(&Source::new(path, text));
    wrong.into_iter().map(|line| line.split_once(": ").unwrap().1.to_owned()).collect()
}

fn complains(path: &str, text: &str, about: &str) {
    let found = complaints(path, &format!("//! Doc.\n{text}"));
    assert_eq!(found.len(), 1, "{text}: {found:?}");
    assert!(found[0].contains(about), "{text}: {found:?}");
}

fn is_fine(path: &str, text: &str) {
    assert_eq!(complaints(path, &format!("//! Doc.\n{text}")), [""; 0], "{text}");
}

#[test]
fn a_forbidden_import_is_found_however_it_is_written() {
    let wrong = "session may not import topics";
    complains("src/session/a.rs", "use crate::topics::FilterId;", wrong);
    complains(
        "src/session/a.rs",
        "use crate::{\n    codec::QoS,\n    topics::FilterId,\n};",
        wrong,
    );
    complains("src/session/a.rs", "use crate::{codec::{QoS, Version}, topics};", wrong);
    complains("src/session/a.rs", "fn f(_: crate::topics::FilterId) {}", wrong);
    complains("src/session/mod.rs", "use super::topics::FilterId;", wrong);
    complains("src/session/a.rs", "use super::super::topics::FilterId;", wrong);
    complains("src/session/a.rs", "pub use crate::topics;", wrong);
    complains("src/session.rs", "use crate::topics;", wrong);
    complains("src/topics/a.rs", "use crate::session::Message;", "topics may not import session");
    for module in ["mesh", "transport", "shard", "cli", "store", "control"] {
        let text = format!("use crate::{module}::X;");
        complains("src/broker/a.rs", &text, &format!("broker may not import {module}"));
    }
    for module in ["codec", "session", "broker", "topics"] {
        let text = format!("use crate::{{{module}::X}};");
        complains("src/mesh/a.rs", &text, &format!("mesh may not import {module}"));
        complains("src/store/a.rs", &text, &format!("store may not import {module}"));
    }
    complains("src/codec/a.rs", "use crate::broker::Broker;", "codec may not import broker");
    complains("src/limits.rs", "use crate::codec::QoS;", "limits may not import codec");
    complains("src/broker/a.rs", "use crate::limits;\nuse crate::shard::Shard;", "import shard");
    complains("src/main.rs", "use ringmq::{cli::Settings, broker::Broker};", "import broker");
    complains("src/new/a.rs", "fn f() {}", "no place in MAY_IMPORT");
}

#[test]
fn an_allowed_import_is_not_complained_of() {
    is_fine("src/session/a.rs", "use crate::{codec::{self, QoS}, limits, session::Message};");
    is_fine("src/session/a.rs", "use super::Message;\nuse super::message::{NEVER, topics};");
    is_fine("src/shard/a.rs", "use crate::{broker::Broker, mesh::Endpoint, transport::Socket};");
    is_fine("src/session/a.rs", "// use crate::topics;\n/* crate::topics /* nested */ crate::x */");
    is_fine(
        "src/session/a.rs",
        r##"const A: &str = "crate::topics"; const B: &str = r#"crate::"#;"##,
    );
    is_fine("src/session/a.rs", "#[cfg(test)]\nmod tests {\n    use crate::topics::X;\n}");
    is_fine("src/session/a.rs", "const Q: char = '\"'; // crate::topics\nconst R: char = '\\'';");
    is_fine("src/session/a/tests.rs", "use crate::topics::X;");
}

#[test]
fn code_behind_a_test_module_is_looked_at() {
    let tests = "#[cfg(test)]\nmod tests {\n    fn f() { \"}\"; }\n}\n";
    complains("src/session/a.rs", &format!("{tests}use crate::topics::X;"), "import topics");
    complains(
        "src/session/a.rs",
        "#[cfg(test)]\nmod tests;\nuse crate::topics::X;",
        "import topics",
    );
}

#[test]
fn runtimes_stay_where_they_belong() {
    complains("src/broker/a.rs", "async fn f() { monoio::time::sleep(x).await }", "monoio is only");
    complains("src/mesh/a.rs", "use monoio::net::TcpStream;", "monoio is only");
    complains("src/shard/a.rs", "use tokio::net::TcpStream;", "tokio is only");
    complains("src/cli/a.rs", "use tokio;", "tokio is only");
    is_fine("src/shard/a.rs", "fn f() { monoio::spawn(x); }");
    is_fine("src/transport/a.rs", "use monoio::net::UnixStream;");
    is_fine("src/control/a.rs", "use tokio::net::TcpListener;");
}

#[test]
fn the_core_is_pure() {
    for text in [
        "use std::time::Instant;",
        "use std::time::{Duration, SystemTime};",
        "use std::{\n    rc::Rc,\n    thread,\n};",
        "fn f() { std::thread::yield_now() }",
        "use std::net::TcpStream;",
        "use std::net::{IpAddr, UdpSocket};",
        "fn f() { getrandom::u64(); }",
        "fn f() { rand::random() }",
        "fn f() { fastrand::Rng::new(); }",
        "fn f() -> u32 { fastrand::u32(..) }",
        "use std::{fs, rc::Rc};",
        "use rustix::net::recv;",
    ] {
        for module in ["codec", "topics", "session", "broker"] {
            let path = format!("src/{module}/a.rs");
            let found = complaints(&path, &format!("//! Doc.\n{text}"));
            assert!(!found.is_empty(), "{text}");
        }
    }
    for text in [
        "use std::net::{IpAddr, SocketAddr};",
        "use std::time::Duration;",
        "fn f(rng: &mut fastrand::Rng) -> u32 { rng.u32(..) }",
        "fn f() { fastrand::Rng::with_seed(1); }",
        "fn f(thread: u32, env: u32, process: u32) -> u32 { thread + env + process }",
    ] {
        is_fine("src/broker/a.rs", text);
    }
    is_fine("src/shard/a.rs", "use std::time::Instant;\nuse std::thread;");
}

#[test]
fn style_is_kept() {
    let long = "fn f() {}\n".repeat(MAX_LINES);
    complains("src/codec/a.rs", &long, "lines, more than 600");
    is_fine("src/codec/tests/a.rs", &long);
    complains("src/codec/a.rs", "fn f() { todo!() }", "todo! is left over");
    complains("src/codec/tests.rs", "fn f() { dbg!(1); }", "dbg! is left over");
    complains("src/codec/a.rs", "unsafe fn f() {}", "unsafe, but not listed");
    complains("src/shard/new.rs", "fn f() { unsafe { g() } }", "unsafe, but not listed");
    is_fine("src/shard/mod.rs", "fn f() { unsafe { g() } }");
    is_fine("src/codec/a.rs", "fn f() { not_todo!(); } // todo!() unsafe\nconst UNSAFE: u8 = 1;");
    assert!(complaints("src/codec/a.rs", "use std::fmt;\n")[0].contains("begins with what it is"));
    assert!(complaints("src/codec/a.rs", "// A comment.\n").len() == 1);
    assert!(complaints("src/codec/a_tests.rs", "\n")[0].contains("an empty file"));
}

#[test]
fn the_complaint_says_where() {
    let source = Source::new("src/session/a.rs", "//! Doc.\n\nuse crate::topics::X;\n");
    assert_eq!(check(&source), ["src/session/a.rs:3: session may not import topics"]);
}
