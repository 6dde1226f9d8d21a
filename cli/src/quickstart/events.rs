//! The made-up drives: what happened in each frame, always the same.

/// Frames of a session.
pub(super) const FRAMES_PER_SESSION: u64 = 1_000;
/// Microseconds between two frames.
const FRAME_MICROS: i64 = 100_000;
/// 2024-08-16 06:00:00 UTC.
const FIRST_START: i64 = 1_723_788_000_000_000;
/// Between the starts of two sessions.
const SESSION_EVERY: i64 = 17 * 60 * 1_000_000;

const ROUTES: [&str; 5] = ["Harbour Loop", "Old Town", "Ring Road North", "Airport Express", "Hill Climb"];
const WEATHERS: [&str; 4] = ["clear", "rain", "fog", "snow"];
const LABELS: [&str; 5] = ["car", "truck", "cyclist", "pedestrian", "traffic_light"];

/// SplitMix64: a small generator that needs nothing but its seed.
#[derive(Debug, Clone)]
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn new(stream: u64, index: u64) -> Self {
        Self(stream.wrapping_mul(0xA24B_AED4_963E_E407) ^ index.wrapping_mul(0x9FB2_1C65_1E98_DF25))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn one_of<'a>(&mut self, options: &[&'a str]) -> &'a str {
        let index = self.below(options.len() as u64) as usize;
        options.get(index).copied().unwrap_or_default()
    }
}

/// A drive.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Session {
    pub(super) session_id: String,
    pub(super) vehicle_id: String,
    pub(super) route_name: &'static str,
    pub(super) start_micros: i64,
    pub(super) end_micros: i64,
    pub(super) weather: &'static str,
    /// Metres.
    pub(super) distance: u64,
}

pub(super) fn session(index: u64) -> Session {
    let mut numbers = Numbers::new(1, index);
    let start_micros = FIRST_START + index as i64 * SESSION_EVERY;
    Session {
        session_id: format!("S-{:06}", index + 1),
        vehicle_id: format!("EV-{:02}", 1 + numbers.below(12)),
        route_name: numbers.one_of(&ROUTES),
        start_micros,
        end_micros: start_micros + FRAMES_PER_SESSION as i64 * FRAME_MICROS,
        weather: numbers.one_of(&WEATHERS),
        distance: 600 + numbers.below(2_400),
    }
}

/// What a frame shows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Frame {
    pub(super) frame_id: String,
    pub(super) session_id: String,
    pub(super) frame_index: i32,
    pub(super) captured_micros: i64,
    pub(super) event_type: &'static str,
    /// Ten-thousandths; absent where the model gave none.
    pub(super) risk: Option<u32>,
}

pub(super) fn frame(index: u64) -> Frame {
    let mut numbers = Numbers::new(2, index);
    let of_session = session(index / FRAMES_PER_SESSION);
    let frame_index = index % FRAMES_PER_SESSION;
    let (event_type, least, spread) = match numbers.below(1_000) {
        0..=2 => ("near_miss", 8_500, 1_500),
        3..=22 => ("hard_brake", 6_000, 3_000),
        23..=72 => ("lane_change", 2_000, 4_000),
        73..=132 => ("pedestrian_crossing", 3_000, 5_000),
        _ => ("cruise", 0, 2_500),
    };
    let risk = least + numbers.below(spread) as u32;
    Frame {
        frame_id: format!("F-{:08}", index + 1),
        session_id: of_session.session_id,
        frame_index: frame_index as i32,
        captured_micros: of_session.start_micros + frame_index as i64 * FRAME_MICROS,
        event_type,
        risk: (event_type != "cruise" || numbers.below(50) > 0).then_some(risk),
    }
}

/// What the detectors saw in a frame.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Payload {
    pub(super) frame_id: String,
    pub(super) run_stage: &'static str,
    /// JSON.
    pub(super) payload: String,
    pub(super) logged_micros: i64,
    /// Tenths of km/h, as in the JSON.
    pub(super) speed: u64,
    /// The label of the first detection, as in the JSON.
    pub(super) first_label: Option<&'static str>,
}

/// The payload of every fourth frame.
pub(super) fn payload(index: u64) -> Payload {
    let mut numbers = Numbers::new(3, index);
    let seen = frame(index * 4);
    let speed = numbers.below(1_300);
    let mut first_label = None;
    let mut detections = String::new();
    for number in 0..numbers.below(4) {
        let label = numbers.one_of(&LABELS);
        first_label.get_or_insert(label);
        if number > 0 {
            detections.push(',');
        }
        let confidence = 500 + numbers.below(500);
        let (x, y) = (numbers.below(1_800), numbers.below(900));
        detections.push_str(&format!(
            r#"{{"label":"{label}","confidence":0.{confidence:03},"box":[{x},{y},{},{}]}}"#,
            x + 20 + numbers.below(100),
            y + 20 + numbers.below(100)
        ));
    }
    let payload = format!(
        r#"{{"vehicle":{{"speed_kmh":{}.{},"gear":{},"brake":{}}},"detections":[{detections}],"camera":{{"id":"cam-{}","exposure_ms":{}}}}}"#,
        speed / 10,
        speed % 10,
        1 + speed / 220,
        seen.event_type == "hard_brake",
        1 + numbers.below(4),
        2 + numbers.below(30),
    );
    Payload {
        run_stage: if index % 10 < 8 { "online" } else { "replay" },
        logged_micros: seen.captured_micros + 40_000,
        frame_id: seen.frame_id,
        payload,
        speed,
        first_label,
    }
}

/// The place of a frame among others that look like it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Embedding {
    pub(super) frame_id: String,
    pub(super) session_id: String,
    pub(super) embedding: [f32; 4],
    pub(super) model_version: &'static str,
    pub(super) created_micros: i64,
}

/// The embedding of every fourth frame.
pub(super) fn embedding(index: u64) -> Embedding {
    let mut numbers = Numbers::new(4, index);
    let seen = frame(index * 4);
    // Never all zero: distances need a direction.
    let embedding = [(); 4].map(|()| (1 + numbers.below(1_000)) as f32 / 1_000.0);
    Embedding {
        frame_id: seen.frame_id,
        session_id: seen.session_id,
        embedding,
        model_version: if index.is_multiple_of(3) { "clip-b-16" } else { "clip-l-14" },
        created_micros: seen.captured_micros + 60_000_000,
    }
}

/// `2024-08-16 06:00:00.100000`, with the separator and the end that a format wants.
pub(super) fn time_text(micros: i64, separator: char, end: &str) -> String {
    let (days, of_day) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
    let (year, month, day) = civil(days);
    let (seconds, micros) = (of_day / 1_000_000, of_day % 1_000_000);
    format!(
        "{year:04}-{month:02}-{day:02}{separator}{:02}:{:02}:{:02}.{micros:06}{end}",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// The Gregorian date of a day since 1970-01-01 (after Howard Hinnant's account of the calendar).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_same_index_always_shows_the_same_frame() {
        assert_eq!(frame(12_345), frame(12_345));
        assert_ne!(frame(12_345), frame(12_346));
        assert_eq!(frame(12_345).session_id, session(12).session_id);
        assert_eq!(frame(12_345).frame_index, 345);
        assert_eq!(embedding(7), embedding(7));
    }

    #[test]
    fn payloads_are_json_that_says_what_is_foretold_of_them() {
        for index in 0..500 {
            let payload = payload(index);
            let json: serde_json::Value = serde_json::from_str(&payload.payload).unwrap();
            assert_eq!(json["vehicle"]["speed_kmh"].as_f64().unwrap(), payload.speed as f64 / 10.0);
            assert_eq!(json["detections"][0]["label"].as_str(), payload.first_label);
        }
    }

    #[test]
    fn times_are_written_out() {
        assert_eq!(time_text(FIRST_START, ' ', ""), "2024-08-16 06:00:00.000000");
        assert_eq!(time_text(951_782_399_100_000, 'T', "Z"), "2000-02-28T23:59:59.100000Z");
        assert_eq!(time_text(951_782_400_000_000, 'T', "Z"), "2000-02-29T00:00:00.000000Z");
        assert_eq!(time_text(-1, ' ', ""), "1969-12-31 23:59:59.999999");
    }
}
