//! The settings of a session: names, defaults, what is allowed.

use std::collections::BTreeMap;

use stevedore_common::worker_group::WorkerGroup;
use stevedore_common::{Error, Result};

/// A setting.
pub(super) struct Setting {
    /// Its name.
    pub name: &'static str,
    /// Its default.
    pub default: &'static str,
    /// What it does.
    pub description: &'static str,
    check: fn(&str) -> std::result::Result<(), String>,
}

/// All settings, by name.
pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "numeric_cast_option",
        default: "rounding",
        description: "how fractions become integers: rounding (half away from zero) or truncating",
        check: |value| one_of(value, &["rounding", "truncating", "truncate"]),
    },
    Setting {
        name: "timezone",
        default: "UTC",
        description: "the time zone that times without one are read in (an IANA name)",
        check: |value| {
            value
                .parse::<chrono_tz::Tz>()
                .map(|_| ())
                .map_err(|_| "an IANA name such as Europe/Paris".to_owned())
        },
    },
    Setting {
        name: TRANSACTION_IDLE_TIMEOUT,
        default: "600",
        description: "a transaction is rolled back after so many seconds without a statement (1 to 86400)",
        check: |value| match value.parse::<i64>() {
            Ok(1..=86_400) => Ok(()),
            _ => Err("1 to 86400 seconds".to_owned()),
        },
    },
    Setting {
        name: WAREHOUSE,
        default: "default",
        description: "the group of workers that statements run on (SHOW WAREHOUSES lists them)",
        check: |value| match WorkerGroup::parse(value) {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("a name that {}", WorkerGroup::RULE)),
        },
    },
];

/// The setting that says which workers statements run on.
pub(crate) const WAREHOUSE: &str = "warehouse";
/// The setting that says how long a transaction may be idle.
const TRANSACTION_IDLE_TIMEOUT: &str = "transaction_idle_timeout";
/// Its default, seconds.
pub(crate) const DEFAULT_IDLE_SECONDS: i64 = 600;

/// How long a transaction that begins with these settings may be idle, milliseconds.
pub(super) fn idle_limit_ms(settings: &BTreeMap<String, String>) -> i64 {
    let seconds = settings.get(TRANSACTION_IDLE_TIMEOUT).and_then(|value| value.parse::<i64>().ok());
    seconds.unwrap_or(DEFAULT_IDLE_SECONDS).saturating_mul(1_000)
}

/// The workers that a session's statements run on.
///
/// # Errors
/// Invalid input, for what is no name.
pub(super) fn group_of(settings: &BTreeMap<String, String>) -> Result<WorkerGroup> {
    settings.get(WAREHOUSE).map_or_else(|| Ok(WorkerGroup::default()), |name| WorkerGroup::parse(name))
}

fn one_of(value: &str, allowed: &[&str]) -> std::result::Result<(), String> {
    if allowed.contains(&value.to_ascii_lowercase().as_str()) { Ok(()) } else { Err(allowed.join(", ")) }
}

/// Whether there is such a setting.
pub(super) fn is_known(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.name == name)
}

/// Whether a session may set this; `None` is back to the default.
pub(super) fn check(name: &str, value: Option<&str>) -> Result<()> {
    let setting = SETTINGS.iter().find(|setting| setting.name == name).ok_or_else(|| {
        let names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
        Error::invalid(format!("unknown setting '{name}'")).hint(format!("settings are {}", names.join(", ")))
    })?;
    match value {
        Some(value) => (setting.check)(value)
            .map_err(|allowed| Error::invalid(format!("setting {name} is '{value}'; allowed: {allowed}"))),
        None => Ok(()),
    }
}
