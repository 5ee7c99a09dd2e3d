//! The values of flags that people write with units or addresses: `64KiB`, `5min`,
//! `localhost:1883`.

use super::settings::Durability;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// Bytes, written as `4096`, `64KiB`, `1MiB` or `2GiB` (powers of 1,024; `K`, `M`, `G` mean the
/// same, `kB`, `MB`, `GB` powers of 1,000).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size(pub u64);

/// Spelling in lower case, and bytes.
const SIZE_UNITS: [(&str, u64); 12] = [
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let expected = "expected bytes as `4096`, `64KiB`, `1MiB` or `2GiB`";
        let scale = match unit.to_ascii_lowercase().as_str() {
            "" => 1,
            unit => SIZE_UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .map(|(_, scale)| *scale)
                .ok_or_else(|| format!("`{unit}` is no unit of size; {expected}"))?,
        };
        let number: u64 = number.parse().map_err(|_| expected.to_owned())?;
        number.checked_mul(scale).map(Size).ok_or_else(|| "too large".to_owned())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, scale) in [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1024)] {
            if self.0 != 0 && self.0.is_multiple_of(scale) {
                return write!(f, "{}{unit}", self.0 / scale);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A length of time, written as `10s`, `5min`, `2h`, `7d`, `500ms`, or plain seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span(pub Duration);

/// Spelling and milliseconds; `m` is missing, for it is read as minutes by some and metres or
/// months by others.
const TIME_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let expected = "expected a time as `10s`, `5min`, `2h`, `7d`, `500ms`, or plain seconds";
        let scale = match unit {
            "" => 1_000,
            unit => TIME_UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .map(|(_, scale)| *scale)
                .ok_or_else(|| format!("`{unit}` is no unit of time; {expected}"))?,
        };
        let number: u64 = number.parse().map_err(|_| expected.to_owned())?;
        let millis = number.checked_mul(scale).ok_or_else(|| "too large".to_owned())?;
        Ok(Span(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let unit = TIME_UNITS.iter().find(|(_, scale)| millis.is_multiple_of(u128::from(*scale)));
        match unit {
            Some((unit, scale)) if millis != 0 => {
                write!(f, "{}{unit}", millis / u128::from(*scale))
            }
            _ => write!(f, "0"),
        }
    }
}

/// A parser of sizes from `min` to `max` bytes, for clap.
pub(super) fn size(min: u64, max: u64) -> impl Fn(&str) -> Result<Size, String> + Clone {
    move |text| within(text.parse()?, Size(min), Size(max))
}

/// As [`size`], but 0 (off) is allowed beside `min` to `max`.
pub(super) fn size_or_off(min: u64, max: u64) -> impl Fn(&str) -> Result<Size, String> + Clone {
    move |text| match text.parse()? {
        Size(0) => Ok(Size(0)),
        size => within(size, Size(min), Size(max)).map_err(|error| format!("{error}, or 0")),
    }
}

/// A parser of times from `min` to `max`, for clap.
pub(super) fn span(min: Duration, max: Duration) -> impl Fn(&str) -> Result<Span, String> + Clone {
    move |text| within(text.parse()?, Span(min), Span(max))
}

/// As [`span`], but 0 (off) is allowed beside `min` to `max`.
pub(super) fn span_or_off(
    min: Duration,
    max: Duration,
) -> impl Fn(&str) -> Result<Span, String> + Clone {
    move |text| match text.parse()? {
        Span(Duration::ZERO) => Ok(Span(Duration::ZERO)),
        span => within(span, Span(min), Span(max)).map_err(|error| format!("{error}, or 0")),
    }
}

/// A parser of times of whole seconds from 0 to `max`, for what the protocol or the kernel counts
/// in seconds.
pub(super) fn seconds(max: u32) -> impl Fn(&str) -> Result<Span, String> + Clone {
    move |text| {
        let span: Span = text.parse()?;
        if span.0.subsec_nanos() != 0 {
            return Err("expected whole seconds".to_owned());
        }
        within(span, Span(Duration::ZERO), Span(Duration::from_secs(u64::from(max))))
    }
}

/// When something counts as kept: `always`, `interval:TIME` or `os`. A time without a unit is in
/// milliseconds here, unlike elsewhere.
pub(super) fn durability(text: &str) -> Result<Durability, String> {
    const MAX: Duration = Duration::from_secs(3_600);
    let expected = "expected `always`, `interval:TIME` as `interval:500ms`, or `os`";
    match text.split_once(':') {
        None if text == "always" => Ok(Durability::Always),
        None if text == "os" => Ok(Durability::Os),
        Some(("interval", time)) => {
            let Span(time) = match time.parse::<u64>() {
                Ok(milliseconds) => Span(Duration::from_millis(milliseconds)),
                Err(_) => time.parse()?,
            };
            within(Span(time), Span(Duration::from_millis(1)), Span(MAX))
                .map(|Span(time)| Durability::Interval(time))
        }
        _ => Err(expected.to_owned()),
    }
}

/// A truth value: true, yes, on, 1, or false, no, off, 0.
pub(super) fn truth(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// An address and port to listen on: an IP literal (version 6 in brackets) or `localhost`, which
/// is 127.0.0.1. Other names are refused, for what a name resolves to can change.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let expected = "expected ADDR:PORT as `127.0.0.1:1883`, `0.0.0.0:1883`, `[::1]:1883` or \
                    `localhost:1883`";
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(match text.parse::<Ipv4Addr>() {
            Ok(_) => format!("the port is missing; {expected}"),
            Err(_) => expected.to_owned(),
        });
    };
    let Ok(port) = port.parse::<u16>() else {
        return Err(format!("`{port}` is no port (0 to 65535); {expected}"));
    };
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    if host.contains(':') {
        return Err(format!("an IPv6 address goes in brackets; {expected}"));
    }
    Err(format!("`{host}` is no IP address; {expected}"))
}

fn within<T: PartialOrd + fmt::Display>(value: T, min: T, max: T) -> Result<T, String> {
    if value < min || value > max {
        return Err(format!("must be from {min} to {max}"));
    }
    Ok(value)
}

/// Splits `64KiB` into the digits and what follows them, without the blanks around either.
fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
    (number, unit.trim_start())
}
