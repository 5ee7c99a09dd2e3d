//! The tests in the sources, and the statements that they say they show.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::statements::{Number, SPECIFICATIONS};

/// What names of tests of MQTT 3.1 begin with: its statements have no numbers.
const UNNUMBERED: &str = "mqtt31_";

/// A test that shows statements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Test {
    /// The function.
    pub name: String,
    /// Its file, relative to the repository, with `/`.
    pub file: String,
    /// What it shows: the place in [`SPECIFICATIONS`] and the number; nothing if it is one of
    /// MQTT 3.1.
    pub shows: Vec<(usize, Number)>,
}

/// The tests of the whole repository that show statements, and what is wrong with how they say so.
pub fn read_all() -> (Vec<Test>, Vec<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut tests, mut wrong) = (Vec::new(), Vec::new());
    for file in rust_files(root, &["src", "tests"]) {
        let text = fs::read_to_string(root.join(&file)).expect("a readable source");
        read(&file, &text, &mut tests, &mut wrong);
    }
    (tests, wrong)
}

fn rust_files(root: &Path, folders: &[&str]) -> Vec<String> {
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let path = path.strip_prefix(root).expect("a file of the repository");
                files.push(path.to_str().expect("a plain name").replace('\\', "/"));
            }
        }
    }
    files.sort();
    files
}

/// Adds the tests of one source.
fn read(file: &str, text: &str, tests: &mut Vec<Test>, wrong: &mut Vec<String>) {
    let mut marks = Marks::default();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        let at = format!("{file}:{}", n + 1);
        if let Some(doc) = line.strip_prefix("///") {
            if let Some(numbers) = doc.trim().strip_prefix("Shows:") {
                marks.read_numbers(numbers, &at, wrong);
            }
        } else if let Some(name) = function(line) {
            let Marks { is_test, ignored, mut shows } = std::mem::take(&mut marks);
            match name_shows(name) {
                Some(Ok(number)) => shows.insert(0, number),
                Some(Err(why)) => wrong.push(format!("{at}: {why}")),
                None => {}
            }
            if shows.is_empty() && !name.starts_with(UNNUMBERED) {
                continue;
            }
            if !is_test || ignored {
                wrong.push(format!("{at}: {name} shows a statement, but does not run as a test"));
            }
            tests.push(Test { name: name.to_owned(), file: file.to_owned(), shows });
        } else if line == "#[test]" {
            marks.is_test = true;
        } else if line.starts_with("#[ignore") {
            marks.ignored = true;
        } else if !line.starts_with("#[") {
            if !marks.shows.is_empty() {
                wrong.push(format!("{at}: a function should follow what it shows"));
            }
            marks = Marks::default();
        }
    }
}

/// What is said above a function.
#[derive(Default)]
struct Marks {
    is_test: bool,
    ignored: bool,
    shows: Vec<(usize, Number)>,
}

impl Marks {
    fn read_numbers(&mut self, numbers: &str, at: &str, wrong: &mut Vec<String>) {
        for number in numbers.split(',').map(str::trim) {
            let tagged = SPECIFICATIONS.iter().enumerate().find_map(|(index, specification)| {
                Some((index, number.strip_prefix(specification.tag)?))
            });
            match tagged.map(|(index, number)| (index, number.parse())) {
                Some((index, Ok(number))) => self.shows.push((index, number)),
                _ => wrong.push(format!("{at}: {number:?} is no statement's number")),
            }
        }
    }
}

/// The name of the function that begins in this line.
fn function(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub ").unwrap_or(line).strip_prefix("fn ")?;
    let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric())?;
    rest.get(..end)
}

/// The statement in the name of a test, if there is one.
fn name_shows(name: &str) -> Option<Result<(usize, Number), String>> {
    let (index, rest) = SPECIFICATIONS.iter().enumerate().find_map(|(index, specification)| {
        Some((index, name.strip_prefix(specification.prefix)?))
    })?;
    let mut parts = rest.splitn(5, '_');
    let mut next = || parts.next().unwrap_or_default();
    let number = format!("{}.{}.{}-{}", next(), next(), next(), next());
    let what = next();
    if what.is_empty() {
        return Some(Err(format!("{name} does not say what it shows")));
    }
    Some(number.parse().map(|number| (index, number)))
}

fn read_text(text: &str) -> (Vec<Test>, Vec<String>) {
    let (mut tests, mut wrong) = (Vec::new(), Vec::new());
    read("a.rs", text, &mut tests, &mut wrong);
    (tests, wrong)
}

fn shown(text: &str) -> Vec<String> {
    let (tests, wrong) = read_text(text);
    assert_eq!(wrong, [""; 0], "{text}");
    let shows = tests.iter().flat_map(|test| &test.shows);
    shows.map(|(index, number)| format!("{}{number}", SPECIFICATIONS[*index].tag)).collect()
}

#[test]
fn a_test_shows_what_its_name_and_its_doc_comment_say() {
    let named = "#[test]\nfn mqtt5_3_3_1_2_dup_is_unset() {\n";
    assert_eq!(shown(named), ["MQTT5-3.3.1-2"]);
    assert_eq!(shown(&named.replace("mqtt5", "mqtt311")), ["MQTT311-3.3.1-2"]);
    // What a test shows may begin with a number.
    assert_eq!(shown("#[test]\nfn mqtt5_3_3_1_2_0_is_fine() {\n"), ["MQTT5-3.3.1-2"]);
    let also = format!("/// A.\n///\n/// Shows: MQTT5-3.3.1-3, MQTT311-3.3.1-2\n{named}");
    assert_eq!(shown(&also), ["MQTT5-3.3.1-2", "MQTT5-3.3.1-3", "MQTT311-3.3.1-2"]);
    let other = "    /// Shows: MQTT5-4.3.3-10\n    #[test]\n    fn another_name() {\n";
    assert_eq!(shown(other), ["MQTT5-4.3.3-10"]);
    assert_eq!(shown("#[test]\nfn it_works() {}\nfn helps() {}\n"), [""; 0]);
}

#[test]
fn a_test_of_mqtt_3_1_needs_no_number() {
    let (tests, wrong) = read_text("#[test]\nfn mqtt31_is_old() {}\nfn mqtt31() {}\n");
    assert_eq!((tests.len(), wrong.len()), (1, 0));
    assert_eq!((&*tests[0].name, &tests[0].shows[..]), ("mqtt31_is_old", &[][..]));
    assert_eq!(read_text("fn mqtt31_is_old() {\n").1.len(), 1);
}

#[test]
fn a_test_that_does_not_run_shows_nothing() {
    let complains = |text: &str, about: &str| {
        let (_, wrong) = read_text(text);
        assert_eq!(wrong.len(), 1, "{text}: {wrong:?}");
        assert!(wrong[0].starts_with("a.rs:") && wrong[0].contains(about), "{text}: {wrong:?}");
    };
    complains("fn mqtt5_3_3_1_2_dup() {\n", "does not run");
    complains("#[test]\n#[ignore]\nfn mqtt5_3_3_1_2_dup() {\n", "does not run");
    complains("#[test]\n#[ignore = \"slow\"]\nfn mqtt5_3_3_1_2_dup() {\n", "does not run");
    complains("/// Shows: MQTT5-3.3.1-3\nfn helps() {\n", "does not run");
    complains("/// Shows: MQTT5-3.3.1-3\nconst A: u8 = 1;\n", "a function should follow");
    complains("/// Shows: MQTT-3.3.1-3\n#[test]\nfn a() {\n", "is no statement's number");
    complains("/// Shows: MQTT5-3.3-3\n#[test]\nfn a() {\n", "is no statement's number");
    complains("#[test]\nfn mqtt5_3_3_1_dup() {\n", "does not say what");
    complains("#[test]\nfn mqtt5_3_3_1_2() {\n", "does not say what");
    complains("#[test]\nfn mqtt5_3_3_1_a_b() {\n", "is no number");
}
