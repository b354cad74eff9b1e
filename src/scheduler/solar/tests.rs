//! Events of the sun against ephem's, and what is refused.

use super::*;
use crate::state::time::Timestamp;

fn seconds(text: &str) -> i64 {
    text.parse::<Timestamp>().expect(text).millis() / 1_000
}

fn rule(text: &str) -> Result<SolarRule, SolarError> {
    let (event, place) = parse(text)?;
    SolarRule::new(event, place)
}

#[test]
fn ephem_gives_the_same_answers() {
    for row in include_str!("ephem_vectors.txt").lines().filter(|row| !row.starts_with('#')) {
        let parts: Vec<&str> = row.split(" | ").collect();
        let [text, after, expected] = parts[..] else { panic!("{row}") };
        let rule = rule(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let mut after = seconds(after);
        // where the sun comes near the horizon at a flat angle, its apparent size matters for longer
        let tolerance = if rule.place.latitude > 60.0 { 120 } else { 10 };
        for expected in expected.split(' ') {
            let found = rule.next_after(after).expect(row);
            let off = found - seconds(&format!("{expected}Z"));
            assert!(off.abs() <= tolerance, "{row}: {off} seconds off {expected}");
            after = found;
        }
    }
}

#[test]
fn the_answer_does_not_depend_on_the_question() {
    for text in [
        "sunset 52.52 13.405",
        "dawn_civil 69.6 -179.9",
        "solar_noon 0 180",
        "sunrise 65.7 24",
        "dusk_nautical -54.8 -68.3",
    ] {
        let rule = rule(text).expect(text);
        let mut at = seconds("2026-05-01T00:00:00Z");
        for _ in 0..200 {
            let next = rule.next_after(at).expect(text);
            assert!(next > at, "{text}");
            let middle = at + (next - at) / 2;
            for question in [next - 1, middle, at + 1].map(|question| question.min(next - 1)) {
                assert_eq!(rule.next_after(question), Some(next), "{text}");
            }
            at = next;
        }
    }
}

#[test]
fn a_polar_night_is_passed_over_and_a_pole_has_one_sunrise_a_year() {
    let next = |text: &str, after: &str| {
        let at = rule(text).expect(text).next_after(seconds(after)).expect(text);
        Timestamp::from_millis(at * 1_000).to_string()[..10].to_owned()
    };
    // Tromsø is without the sun from the end of November to the middle of January
    assert_eq!(next("sunrise 69.6492 18.9553", "2026-12-01T00:00:00Z"), "2027-01-15");
    assert_eq!(next("sunrise 90 0", "2026-05-01T00:00:00Z")[..7].to_owned(), "2027-03");
    assert_eq!(next("sunset 90 0", "2026-05-01T00:00:00Z")[..7].to_owned(), "2026-09");
}

#[test]
fn nothing_is_said_of_what_lies_beyond_the_year_3000() {
    let rule = rule("sunset 52.52 13.405").expect("a rule");
    assert!(rule.next_after(seconds("2999-06-01T00:00:00Z")).is_some());
    assert_eq!(rule.next_after(seconds("3000-06-01T00:00:00Z")), None);
}

#[test]
fn a_refusal_names_what_is_wrong() {
    for (text, message, hint) in [
        (
            "sunset",
            "found `sunset`, expected an event, a latitude and a longitude, such as `sunset 52.52 13.405`",
            "",
        ),
        (
            "sunset 52.52 x",
            "found `sunset 52.52 x`, expected an event, a latitude and a longitude, such as `sunset 52.52 13.405`",
            "",
        ),
        (
            "sunset 90.5 0",
            "latitude: 90.5 is out of range, expected -90 to 90",
            "the latitude comes first, north of the equator positive",
        ),
        ("sunset 0 -180.000001", "longitude: -180.000001 is out of range, expected -180 to 180", ""),
        (
            "sunset 1e300 0",
            "latitude: 2147.483647 is out of range, expected -90 to 90",
            "the latitude comes first, north of the equator positive",
        ),
        (
            "sunste 1 2",
            "unknown event `sunste`, expected one of dawn_astronomical, dawn_nautical, dawn_civil, sunrise, solar_noon, sunset, dusk_civil, dusk_nautical, dusk_astronomical",
            "did you mean `sunset`?",
        ),
    ] {
        let error = rule(text).expect_err(text);
        assert_eq!(error.to_string(), message, "{text}");
        assert_eq!(error.hint().unwrap_or_default(), hint, "{text}");
    }
    assert_eq!(rule("SUNSET,52.52, 13.405"), rule("sunset 52.52 13.405"));
}
