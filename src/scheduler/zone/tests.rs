//! The tables against the library that they were made with, and the names.

use super::*;

#[test]
fn the_tables_agree_with_the_library_for_every_zone_and_century() {
    for name in Zones::bundled().names() {
        let Ok(zone) = zone(name) else {
            assert!(REFUSED.contains(&name), "{name}");
            continue;
        };
        let library = jiff::tz::TimeZoneDatabase::bundled().get(name).expect("listed");
        // steps of about 50 days up to 2100, of about 11 years from there to the year 9999
        let steps = (-3_000_000_000..REPEATS_FROM).step_by(4_321_987);
        for at in steps.chain((REPEATS_FROM..253_000_000_000).step_by(345_678_901)) {
            let expected = library.to_offset(jiff::Timestamp::from_second(at).expect("in range"));
            let segment = zone.segment(at);
            assert_eq!(segment.offset, i64::from(expected.seconds()), "{name} at {at}");
            assert!(segment.start <= at && at < segment.end, "{name} at {at}");
        }
    }
}

#[test]
fn neighbouring_segments_agree_about_their_border() {
    for name in ["America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca"] {
        let zone = zone(name).expect(name);
        let mut segment = zone.segment(-5_000_000_000);
        while segment.end < 20_000_000_000 {
            let next = zone.segment(segment.end);
            assert_eq!((next.start, next.offset), (segment.end, segment.offset_after), "{name}");
            assert_eq!(next.offset_before, segment.offset, "{name}");
            // the search relies on it: what a gap or a fold needs lies within the next segment
            assert!(segment.end - segment.start.max(-6_000_000_000) > 86_400, "{name}");
            segment = next;
        }
    }
}

#[test]
fn names_are_found_in_any_case() {
    for (name, found) in [
        ("Europe/Berlin", "Europe/Berlin"),
        ("europe/berlin", "Europe/Berlin"),
        ("AMERICA/NEW_YORK", "America/New_York"),
        ("utc", "UTC"),
        ("CET", "CET"),
        ("fixed:+03:00", "fixed:+03:00"),
        ("fixed:-12:45", "fixed:-12:45"),
    ] {
        assert_eq!(zone(name).expect(name).name(), found);
    }
}

#[test]
fn other_names_are_refused_with_the_nearest_one() {
    for (name, hint) in [
        ("EST", Some("did you mean `America/New_York`?")),
        ("mst", Some("did you mean `America/Denver`?")),
        ("UTC+3", Some("write `fixed:+03:00`")),
        ("gmt-5:30", Some("write `fixed:-05:30`")),
        ("+0300", Some("write `fixed:+03:00`")),
        ("Europe/Berln", Some("did you mean `Europe/Berlin`?")),
        ("Berlin", Some("did you mean `Europe/Berlin`?")),
        ("America/New York", Some("did you mean `America/New_York`?")),
        ("CEST", Some("did you mean `Europe/Berlin`?")),
        ("Xyzzy/Plugh-Plover", None),
        ("", None),
        ("fixed:+3", None),
        ("fixed:+24:00", None),
        ("fixed:03:00", None),
        ("fixed:+ä3:0", None),
        ("+ä1", None),
        ("../../etc/passwd", None),
    ] {
        let error = zone(name).expect_err(name);
        assert_eq!(error.hint(), hint, "{name}: {error}");
    }
    let long = "ä".repeat(1_000);
    assert!(zone(&long).expect_err("too long").to_string().len() < 100);
}

#[test]
fn local_time_is_written_with_its_offset() {
    let local = |name: &str, text: &str| zone(name).expect(name).local(text.parse().expect(text));
    assert_eq!(local("Europe/Berlin", "2026-03-29T01:00:00Z"), "2026-03-29T03:00:00.000+02:00");
    assert_eq!(local("America/St_Johns", "2026-01-01T00:00:00.5Z"), "2025-12-31T20:30:00.500-03:30");
    assert_eq!(local("UTC", "2026-01-01T00:00:00Z"), "2026-01-01T00:00:00.000+00:00");
    // local mean time was +00:53:28
    assert_eq!(local("Europe/Berlin", "1890-01-01T00:00:00Z"), "1890-01-01T00:53:00.000+00:53");
}

#[test]
fn the_release_of_the_database_is_known() {
    let zones = Zones::bundled();
    let release = zones.release();
    assert!(release.len() == 5 && release.starts_with("20"), "{release}");
}
