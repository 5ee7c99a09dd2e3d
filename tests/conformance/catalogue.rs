//! Whether every statement is tested or excepted, and the page that says which is which.

use std::{collections::BTreeSet, env, fmt::Write as _, fs, path::Path, process::Command};

use super::{
    sources::{self, Test},
    statements::{self, Number, SPECIFICATIONS, Statement, Statements},
};

/// The page, relative to the repository.
const PAGE: &str = "docs/conformance.md";
/// Set to write the page instead of comparing it.
const WRITE: &str = "RINGMQ_WRITE_CONFORMANCE";
/// The end of the page.
const CHOICES: &str = "
## Where the specifications leave it open

- A SUBSCRIBE of MQTT 5.0 with a wildcard in the wrong place, or with a shared filter that lacks its
  share name or the filter behind it, fails for that filter alone, with 0x8F in SUBACK: 4.13.1 leaves
  open how strictly packets are checked. MQTT 3.1.1 does not (4.8.0-1): the connection ends. The same
  holds for UNSUBSCRIBE. A topic name with a wildcard ends it in all versions, in 5.0 with 0x90.
- One copy of a message goes to a session, however many of its subscriptions match. What comes
  through a shared subscription is a copy of its own.
- No Local does not hold back a retained message that the client itself has published before:
  3.3.1-9 of MQTT 5.0 asks for all of them, and 3.8.3-3 speaks of what is forwarded.
- Retained messages come behind SUBACK, but other packets may come in between.
- Topic names have 128 levels at most (`--max-topic-levels`) and filters with wildcards 32. The
  specifications know no such limit (4.7.3); it bounds the work that one packet causes.
- When the broker stops, MQTT 5 clients are told so (0x8B). The wills of sessions that are kept in the
  store are published, those without a delay at once, others when it has passed, after the next start
  if need be. The wills of all others, of sessions that end with their connection and with
  `--in-memory` of all, are dropped, for everybody leaves at once. 3.1.2.5 of MQTT 5.0 lets a server put
  wills off until it is started again, not drop them, so in that the broker departs from it.
";

#[test]
fn every_statement_is_tested_or_excepted_and_the_page_says_so() {
    let (tests, mut wrong) = sources::read_all();
    let lists = SPECIFICATIONS.each_ref().map(|specification| {
        statements::read(specification.list)
            .unwrap_or_else(|error| panic!("{}: {error}", specification.name))
    });
    wrong.extend(check(&lists, &tests));
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    let (page, path) = (page(&lists, &tests), Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE));
    if env::var_os(WRITE).is_some() {
        fs::write(path, page).expect("the page can be written");
    } else if fs::read_to_string(path).ok().as_ref() != Some(&page) {
        panic!("{PAGE} is not up to date; {WRITE}=1 cargo test --test conformance writes it");
    }
}

/// A file that no module declares, or a test behind a `cfg`, would be counted but never run.
#[test]
fn the_tests_that_count_are_compiled() {
    let list = Command::new(env::current_exe().expect("this binary"))
        .args(["--list", "--format", "terse"])
        .output()
        .expect("this binary runs");
    let list = String::from_utf8(list.stdout).expect("UTF-8");
    let compiled: BTreeSet<&str> =
        list.lines().filter_map(|line| line.strip_suffix(": test")?.rsplit("::").next()).collect();
    let (tests, _) = sources::read_all();
    let here: Vec<&Test> =
        tests.iter().filter(|test| test.file.starts_with("tests/conformance/")).collect();
    assert!(!here.is_empty());
    for test in here {
        assert!(compiled.contains(&*test.name), "{}: {} is not compiled", test.file, test.name);
    }
}

/// What is wrong with the lists and the tests, taken together.
fn check(lists: &[Statements; 2], tests: &[Test]) -> Vec<String> {
    let mut wrong = Vec::new();
    for test in tests {
        for &(index, number) in &test.shows {
            if !lists[index].contains_key(&number) {
                let (Test { name, file, .. }, tag) = (test, SPECIFICATIONS[index].tag);
                wrong.push(format!("{file}: {name} shows {tag}{number}, which does not exist"));
            }
        }
    }
    for (index, statements) in lists.iter().enumerate() {
        for (&number, statement) in statements {
            let tag = SPECIFICATIONS[index].tag;
            let tested = shown_by(tests, index, number).next().is_some();
            match (tested, &statement.except) {
                (true, Some(_)) => wrong.push(format!("{tag}{number} is excepted and tested")),
                (false, None) => wrong.push(format!("{tag}{number} is not tested")),
                _ => {}
            }
            for text in [Some(&statement.words), statement.except.as_ref()].into_iter().flatten() {
                if text.len() < 10 || text.contains(['|', '\n']) {
                    wrong
                        .push(format!("{tag}{number}: {text:?} says nothing, or breaks the table"));
                }
            }
        }
    }
    wrong
}

fn shown_by(tests: &[Test], index: usize, number: Number) -> impl Iterator<Item = &Test> {
    tests.iter().filter(move |test| test.shows.contains(&(index, number)))
}

/// The page in Markdown.
fn page(lists: &[Statements; 2], tests: &[Test]) -> String {
    let mut page = format!(
        "# Conformance by clause\n\n\
        Every normative statement in appendix B of the specifications, in our own words, with the\n\
        tests that show that RingMQ keeps to it or the reason why there is none. The tests send\n\
        packets to the real binary, or drive its core where that shows more.\n\n\
        This page is made from `tests/conformance/*.toml` and the names and doc comments of the\n\
        tests by `{WRITE}=1 cargo test --test conformance`.\n\
        Without the variable the same test fails if the page is out of date, or if a statement has\n\
        neither a test nor a reason.\n"
    );
    for (index, statements) in lists.iter().enumerate() {
        let (name, all) = (SPECIFICATIONS[index].name, statements.len());
        let excepted = statements.values().filter(|s| s.except.is_some()).count();
        let counts = format!("{} tested, {excepted} not, for a reason", all - excepted);
        line(&mut page, &format!("\n## {name}\n\n{all} statements: {counts}.\n"));
        line(&mut page, "| number | binds | statement | shown by |\n|---|---|---|---|");
        for (&number, statement) in statements {
            let Statement { binds, words, except } = statement;
            let shown = match except {
                Some(reason) => format!("*not tested:* {reason}"),
                None => shown_by(tests, index, number).map(link).collect::<Vec<_>>().join(", "),
            };
            line(&mut page, &format!("| {number} | {binds} | {words} | {shown} |"));
        }
    }
    line(&mut page, "\n## MQTT 3.1\n\nIts statements have no numbers. Where it differs:\n");
    for test in tests.iter().filter(|test| test.shows.is_empty()) {
        line(&mut page, &format!("- {}", link(test)));
    }
    page + CHOICES
}

fn line(page: &mut String, text: &str) {
    writeln!(page, "{text}").expect("strings take everything");
}

fn link(test: &Test) -> String {
    format!("[`{}`](../{})", test.name, test.file)
}

fn example(except: Option<&str>) -> [Statements; 2] {
    let statement = Statement {
        binds: statements::Binds::Server,
        words: "DUP is unset.".into(),
        except: except.map(str::to_owned),
    };
    let number = "3.3.1-2".parse().unwrap();
    [Statements::from([(number, statement)]), Statements::new()]
}

fn test_of(index: usize, number: &str) -> Test {
    let shows = vec![(index, number.parse().unwrap())];
    Test { name: "a_test".into(), file: "tests/a.rs".into(), shows }
}

#[test]
fn what_is_wrong_is_found() {
    let reason = Some("there is no such thing");
    let fine = [test_of(0, "3.3.1-2")];
    assert_eq!(check(&example(None), &fine), [""; 0]);
    assert_eq!(check(&example(reason), &[]), [""; 0]);
    assert_eq!(check(&example(None), &[]), ["MQTT5-3.3.1-2 is not tested"]);
    assert_eq!(check(&example(reason), &fine), ["MQTT5-3.3.1-2 is excepted and tested"]);
    let invented = [fine[0].clone(), test_of(1, "3.3.1-2"), test_of(0, "3.3.1-3")];
    assert_eq!(
        check(&example(None), &invented),
        [
            "tests/a.rs: a_test shows MQTT311-3.3.1-2, which does not exist",
            "tests/a.rs: a_test shows MQTT5-3.3.1-3, which does not exist",
        ]
    );
    assert_eq!(check(&example(Some("")), &[]).len(), 1);
    assert_eq!(check(&example(Some("a | in the reason")), &[]).len(), 1);
}

#[test]
fn the_page_says_what_is_tested_and_why_not() {
    let tested = page(&example(None), &[test_of(0, "3.3.1-2")]);
    assert!(tested.contains("\n1 statements: 1 tested, 0 not, for a reason.\n"), "{tested}");
    let row = "| 3.3.1-2 | server | DUP is unset. | [`a_test`](../tests/a.rs) |\n";
    assert!(tested.contains(row), "{tested}");
    let old = Test { name: "mqtt31_is_old".into(), shows: Vec::new(), ..test_of(0, "3.3.1-2") };
    let unnumbered = page(&example(None), &[old]);
    assert!(unnumbered.contains("\n- [`mqtt31_is_old`](../tests/a.rs)\n"), "{unnumbered}");
    let excepted = page(&example(Some("there is no such thing")), &[]);
    assert!(excepted.contains("\n1 statements: 0 tested, 1 not, for a reason.\n"), "{excepted}");
    assert!(excepted.contains("*not tested:* there is no such thing |\n"), "{excepted}");
}
