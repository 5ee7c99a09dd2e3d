//! The lists of normative statements: their numbers, whom they bind, and what they ask for in our
//! own words.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::Deserialize;

/// A specification whose statements are listed.
pub struct Specification {
    /// As it is called.
    pub name: &'static str,
    /// What names of tests begin with.
    pub prefix: &'static str,
    /// What its numbers begin with in `Shows:` lines.
    pub tag: &'static str,
    /// The list of its statements.
    pub list: &'static str,
}

/// Every specification that has a list.
pub const SPECIFICATIONS: [Specification; 2] = [
    Specification {
        name: "MQTT 5.0",
        prefix: "mqtt5_",
        tag: "MQTT5-",
        list: include_str!("mqtt5.toml"),
    },
    Specification {
        name: "MQTT 3.1.1",
        prefix: "mqtt311_",
        tag: "MQTT311-",
        list: include_str!("mqtt311.toml"),
    },
];

/// The number of a statement: section and place, as in 3.3.1-2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number {
    /// Chapter, section, subsection.
    pub section: [u32; 3],
    /// Its place among the statements of the section.
    pub place: u32,
}

/// Whom a statement binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Binds {
    /// The server.
    Server,
    /// The client; a server may still have to act on a client that does not keep to it.
    Client,
    /// Both.
    Both,
}

/// What a statement asks for, and why it has no test if it has none.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Whom it binds.
    pub binds: Binds,
    /// What it asks for, in our own words.
    pub words: String,
    /// Why there is no test.
    pub except: Option<String>,
}

/// The statements of a specification, in order.
pub type Statements = BTreeMap<Number, Statement>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    /// How many statements the specification has.
    count: usize,
    /// Numbers that the specification skips.
    gaps: Vec<String>,
    statements: BTreeMap<String, Statement>,
}

/// Reads a list and checks that its numbering has no gap but those that it names.
pub fn read(list: &str) -> Result<Statements, String> {
    let list: List = toml::from_str(list).map_err(|error| error.to_string())?;
    let gaps: Vec<Number> = list.gaps.iter().map(|gap| gap.parse()).collect::<Result<_, _>>()?;
    let mut statements = Statements::new();
    for (number, statement) in list.statements {
        statements.insert(number.parse()?, statement);
    }
    if statements.len() != list.count {
        return Err(format!("{} statements instead of {}", statements.len(), list.count));
    }
    if let Some(gap) = gaps.iter().find(|gap| statements.contains_key(gap)) {
        return Err(format!("{gap} is listed, but also said to be missing"));
    }
    for &Number { section, place } in statements.keys().chain(&gaps) {
        let before = Number { section, place: place - 1 };
        if place > 1 && !statements.contains_key(&before) && !gaps.contains(&before) {
            return Err(format!("{before} is missing"));
        }
    }
    Ok(statements)
}

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Number, String> {
        let wrong = || format!("{text:?} is no number of a statement");
        let (section, place) = text.split_once('-').ok_or_else(wrong)?;
        let section: Vec<u32> =
            section.split('.').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
        let section = section.try_into().map_err(|_| wrong())?;
        let number = Number { section, place: place.parse().map_err(|_| wrong())? };
        if number.place == 0 || number.to_string() != text {
            return Err(wrong());
        }
        Ok(number)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [chapter, section, subsection] = self.section;
        write!(f, "{chapter}.{section}.{subsection}-{}", self.place)
    }
}

impl fmt::Display for Binds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Binds::Server => "server",
            Binds::Client => "client",
            Binds::Both => "both",
        })
    }
}

const ENTRY: &str = "{ binds = \"both\", words = \"W.\" }";

#[test]
fn a_list_is_read_in_the_order_of_the_specification() {
    let list = format!(
        "count = 3\ngaps = [\"1.1.1-1\"]\n[statements]\n\
        \"1.1.1-2\" = {ENTRY}\n\"1.10.1-1\" = {ENTRY}\n\"1.2.1-1\" = {ENTRY}\n"
    );
    let numbers: Vec<_> = read(&list).unwrap().keys().map(Number::to_string).collect();
    assert_eq!(numbers, ["1.1.1-2", "1.2.1-1", "1.10.1-1"]);
}

#[test]
fn a_list_with_gaps_is_refused() {
    let error = |count: u32, gaps: &str, numbers: &[&str]| {
        let entries: String = numbers.iter().map(|n| format!("\"{n}\" = {ENTRY}\n")).collect();
        read(&format!("count = {count}\ngaps = {gaps}\n[statements]\n{entries}")).unwrap_err()
    };
    assert_eq!(error(1, "[]", &["1.1.1-2"]), "1.1.1-1 is missing");
    assert_eq!(error(2, "[]", &["1.1.1-1", "1.1.1-3"]), "1.1.1-2 is missing");
    assert_eq!(error(1, "[\"1.1.1-3\"]", &["1.1.1-1"]), "1.1.1-2 is missing");
    assert_eq!(error(2, "[]", &["1.1.1-1"]), "1 statements instead of 2");
    let both = error(1, "[\"1.1.1-1\"]", &["1.1.1-1"]);
    assert_eq!(both, "1.1.1-1 is listed, but also said to be missing");
    for wrong in ["1.1-1", "1.1.1", "1.1.1.1-1", "1.1.1-01", "1.1.1-0", "a.1.1-1", "1.1.1-1a"] {
        assert!(error(1, "[]", &[wrong]).contains("is no number"), "{wrong}");
    }
}
