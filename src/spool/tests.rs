//! The spool on a real disk. What a disk does to it that is full or fails is tried with folders that are gone.

use std::fs;
use std::path::Path;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn options(folder: &Path, life: &str) -> SpoolOptions {
    SpoolOptions {
        folder: folder.to_owned(),
        life: life.to_owned(),
        output_bytes: OUTPUT_BYTES_MIN,
        total_bytes: TOTAL_BYTES_DEFAULT,
        age: AGE_DEFAULT,
    }
}

async fn open(options: SpoolOptions) -> Spool {
    Spool::open(options, Clock::system()).await.expect("a usable folder")
}

fn key(fence: u64) -> Key {
    Key { run_id: "4096-1774746000000".into(), fence }
}

/// Writes as an attempt does, piece by piece.
async fn write(sink: &mut Sink, stream: Stream, pieces: &[&[u8]]) {
    for piece in pieces {
        sink.ready().await;
        sink.write(stream, piece);
    }
}

async fn settled(spool: &Spool) {
    let until = Instant::now() + PATIENCE;
    spool.settle(until).await;
    assert!(!spool.shared.index().has_live(), "the files are completed in time");
}

/// Complete, and let go by everyone, so that the next life can have the folder.
async fn close(spool: Spool) {
    settled(&spool).await;
    let until = Instant::now() + PATIENCE;
    while Arc::strong_count(&spool.shared) > 1 {
        assert!(Instant::now() < until, "nobody lets go of it");
        tokio::task::yield_now().await;
    }
}

/// All that a reading yields, and how it came to its end.
async fn all(mut reading: Reading) -> (Vec<Piece>, Ending) {
    let mut pieces = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, reading.next()).await.expect("it goes on").expect("a good disk")
        {
            Taken::Pieces(more) => pieces.extend(more),
            Taken::Over(ending) => return (pieces, ending),
        }
    }
}

async fn read(spool: &Spool, fence: u64, wanted: Wanted) -> (Vec<Piece>, Ending) {
    all(spool.read(&key(fence), wanted).expect("it is kept")).await
}

fn bytes(pieces: &[Piece]) -> Vec<u8> {
    let data = pieces.iter().filter_map(|piece| match &piece.part {
        Part::Data(_, bytes) => Some(bytes.as_slice()),
        Part::Gap(..) => None,
    });
    data.flatten().copied().collect()
}

fn gaps(pieces: &[Piece]) -> Vec<(u64, u64, Loss)> {
    let gaps = pieces.iter().filter_map(|piece| match piece.part {
        Part::Gap(bytes, loss) => Some((piece.offset, bytes, loss)),
        Part::Data(..) => None,
    });
    gaps.collect()
}

/// Every byte is there or told to be missing, in order.
fn assert_seamless(pieces: &[Piece]) {
    for pair in pieces.windows(2) {
        assert_eq!(pair[0].end(), pair[1].offset);
    }
}

/// Text of so many bytes in which every place looks different.
fn text(length: usize) -> Vec<u8> {
    (0u64..).flat_map(|line| format!("line {line}\n").into_bytes()).take(length).collect()
}

#[tokio::test]
async fn what_was_written_is_read_whole_in_parts_and_by_stream() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = open(options(folder.path(), "node-1/1")).await;
    let mut sink = spool.sink(key(1), Beginning::AtOnce);
    write(&mut sink, Stream::Stdout, &[b"one\n", b"two\n"]).await;
    write(&mut sink, Stream::Stderr, &[b"oops\n"]).await;
    write(&mut sink, Stream::Stdout, &[b"three\n"]).await;
    drop(sink);
    settled(&spool).await;
    let from = |offset| Wanted { offset, ..Wanted::default() };
    let (pieces, ending) = read(&spool, 1, from(0)).await;
    assert_eq!((bytes(&pieces).as_slice(), ending), (&b"one\ntwo\noops\nthree\n"[..], Ending::Ended));
    assert_seamless(&pieces);
    for offset in 0..=19 {
        let (pieces, _) = read(&spool, 1, from(offset)).await;
        assert_eq!(bytes(&pieces), b"one\ntwo\noops\nthree\n"[offset as usize..], "from {offset}");
    }
    let of = |stream| Wanted { stream: Some(stream), ..Wanted::default() };
    assert_eq!(bytes(&read(&spool, 1, of(Stream::Stderr)).await.0), b"oops\n");
    assert_eq!(bytes(&read(&spool, 1, of(Stream::Stdout)).await.0), b"one\ntwo\nthree\n");
    let tail = |tail_lines, stream| Wanted { tail_lines, stream, ..Wanted::default() };
    assert_eq!(bytes(&read(&spool, 1, tail(2, None)).await.0), b"oops\nthree\n");
    assert_eq!(bytes(&read(&spool, 1, tail(2, Some(Stream::Stdout))).await.0), b"two\nthree\n");
    assert_eq!(bytes(&read(&spool, 1, tail(99, None)).await.0).len(), 19);
    assert!(spool.read(&key(2), Wanted::default()).is_none());
}

#[tokio::test]
async fn a_reader_follows_an_attempt_that_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = open(options(folder.path(), "node-1/1")).await;
    let mut sink = spool.sink(key(1), Beginning::AtOnce);
    let follow = Wanted { follow: true, ..Wanted::default() };
    let mut reading = spool.read(&key(1), follow).expect("known before its first byte");
    for line in ["first\n", "second\n"] {
        write(&mut sink, Stream::Both, &[line.as_bytes()]).await;
        let taken = tokio::time::timeout(PATIENCE, reading.next()).await.expect("in time").expect("read");
        let Taken::Pieces(pieces) = taken else { panic!("{taken:?}") };
        assert_eq!(bytes(&pieces), line.as_bytes());
    }
    let (so_far, ending) = read(&spool, 1, Wanted::default()).await;
    assert_eq!((bytes(&so_far).len(), ending), (13, Ending::Running));
    let apart = Wanted { stream: Some(Stream::Stderr), ..Wanted::default() };
    assert_eq!(read(&spool, 1, apart).await.1, Ending::NotApart);
    drop(sink);
    let ended = tokio::time::timeout(PATIENCE, reading.next()).await.expect("in time").expect("read");
    assert_eq!(ended, Taken::Over(Ending::Ended));
}

#[tokio::test]
async fn of_too_much_output_the_first_part_and_the_end_are_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = open(options(folder.path(), "node-1/1")).await;
    let mut sink = spool.sink(key(1), Beginning::AtOnce);
    let written = text(3 << 20);
    for chunk in written.chunks(10_007) {
        write(&mut sink, Stream::Both, &[chunk]).await;
    }
    drop(sink);
    settled(&spool).await;
    let (pieces, ending) = read(&spool, 1, Wanted::default()).await;
    assert_eq!(ending, Ending::Ended);
    assert_seamless(&pieces);
    let [(from, dropped, Loss::Limit)] = gaps(&pieces)[..] else { panic!("{:?}", gaps(&pieces)) };
    let (from, dropped) = (from as usize, dropped as usize);
    assert_eq!(written.len() - from - dropped, END_BYTES);
    let kept = bytes(&pieces);
    assert_eq!(kept[..from], written[..from], "the first part");
    assert_eq!(kept[from..], written[from + dropped..], "the end");
    let size = fs::metadata(folder.path().join("node-1%2F1.out/1_4096-1774746000000")).expect("a file").len();
    assert!(size <= OUTPUT_BYTES_MIN && size > OUTPUT_BYTES_MIN / 2, "{size}");
}

#[tokio::test]
async fn little_output_that_the_record_holds_makes_no_file_and_more_makes_a_whole_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = open(options(folder.path(), "node-1/1")).await;
    let mut little = spool.sink(key(1), Beginning::Beyond(10));
    write(&mut little, Stream::Body, &[b"12345", b"67890"]).await;
    let mut more = spool.sink(key(2), Beginning::Beyond(10));
    write(&mut more, Stream::Body, &[b"12345", b"67890", b"1", b"2"]).await;
    drop((little, more));
    settled(&spool).await;
    assert!(spool.read(&key(1), Wanted::default()).is_none());
    assert_eq!(bytes(&read(&spool, 2, Wanted::default()).await.0), b"123456789012");
}

#[tokio::test]
async fn a_later_life_serves_what_earlier_ones_left_and_tells_their_names() {
    let folder = tempfile::tempdir().expect("a folder");
    for (fence, life) in [(1, "node-1/a"), (2, "node-1/b"), (3, "node-1/none")] {
        let spool = open(options(folder.path(), life)).await;
        if fence < 3 {
            write(&mut spool.sink(key(fence), Beginning::AtOnce), Stream::Both, &[life.as_bytes()]).await;
        }
        close(spool).await;
    }
    let spool = open(options(folder.path(), "node-1/c")).await;
    let mut earlier = spool.earlier().to_vec();
    earlier.sort();
    assert_eq!(earlier, ["node-1/a", "node-1/b"]);
    assert_eq!(bytes(&read(&spool, 1, Wanted::default()).await.0), b"node-1/a");
    assert_eq!(bytes(&read(&spool, 2, Wanted::default()).await.0), b"node-1/b");
    let second = Spool::open(options(folder.path(), "node-1/d"), Clock::system()).await;
    assert!(
        matches!(second, Err(SpoolError::Storage(StorageError::Locked { .. }))),
        "it is one worker's alone"
    );
}

#[tokio::test]
async fn a_torn_or_damaged_file_is_read_up_to_there_and_said_to_be_lost_from_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = open(options(folder.path(), "node-1/1")).await;
    let mut sink = spool.sink(key(1), Beginning::AtOnce);
    write(&mut sink, Stream::Both, &[b"one\n"]).await;
    drop(sink);
    close(spool).await;
    let file = folder.path().join("node-1%2F1.out/1_4096-1774746000000");
    let whole = fs::read(&file).expect("it is there");
    for length in (0..whole.len()).rev() {
        fs::write(&file, &whole[..length]).expect("writable");
        let spool = open(options(folder.path(), "node-1/2")).await;
        let (pieces, ending) = read(&spool, 1, Wanted::default()).await;
        assert_eq!(ending, Ending::Ended);
        let data = bytes(&pieces);
        assert!(data.is_empty() || data == b"one\n", "{length}: {data:?}");
        assert_eq!(gaps(&pieces), [(data.len() as u64, 0, Loss::Torn)], "{length}");
    }
    let mut damaged = whole.clone();
    damaged[HEAD_AND_A_BIT] ^= 1;
    fs::write(&file, damaged).expect("writable");
    let spool = open(options(folder.path(), "node-1/2")).await;
    assert_eq!(gaps(&read(&spool, 1, Wanted::default()).await.0), [(0, 0, Loss::Torn)]);
}

/// In the first record.
const HEAD_AND_A_BIT: usize = 12;

#[tokio::test]
async fn a_disk_that_takes_nothing_costs_output_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = open(options(folder.path(), "node-1/1")).await;
    let own = folder.path().join("node-1%2F1.out");
    fs::remove_dir(&own).expect("it is empty");
    let mut sink = spool.sink(key(1), Beginning::AtOnce);
    let mut reading = spool
        .read(&key(1), Wanted { follow: true, ..Wanted::default() })
        .expect("known before its first byte");
    let written = text(1 << 20);
    for chunk in written.chunks(PIECE_BYTES) {
        write(&mut sink, Stream::Both, &[chunk]).await;
    }
    drop(sink);
    let taken = tokio::time::timeout(PATIENCE, reading.next()).await.expect("in time").expect("no error");
    let Taken::Pieces(pieces) = taken else { panic!("{taken:?}") };
    assert_eq!(gaps(&pieces), [(0, written.len() as u64, Loss::Disk)]);
    assert_eq!(all(reading).await, (Vec::new(), Ending::Ended));
    settled(&spool).await;
    assert!(spool.read(&key(1), Wanted::default()).is_none(), "nothing of it is left");

    fs::create_dir(&own).expect("the disk works again");
    write(&mut spool.sink(key(2), Beginning::AtOnce), Stream::Both, &[b"again"]).await;
    settled(&spool).await;
    assert_eq!(bytes(&read(&spool, 2, Wanted::default()).await.0), b"again");
}

#[tokio::test]
async fn the_bound_of_all_holds_and_the_oldest_goes_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let total_bytes = 400 << 10;
    let spool = open(SpoolOptions { total_bytes, ..options(folder.path(), "node-1/1") }).await;
    let written = text(90 << 10);
    for fence in 1..=8 {
        let mut sink = spool.sink(key(fence), Beginning::AtOnce);
        for chunk in written.chunks(PIECE_BYTES) {
            write(&mut sink, Stream::Both, &[chunk]).await;
        }
        drop(sink);
        settled(&spool).await;
    }
    let kept: Vec<u64> =
        (1..=8).filter(|fence| spool.read(&key(*fence), Wanted::default()).is_some()).collect();
    assert_eq!(kept, [5, 6, 7, 8]);
    let files = fs::read_dir(folder.path().join("node-1%2F1.out")).expect("a folder");
    let sizes: u64 = files.map(|file| file.expect("a file").metadata().expect("its size").len()).sum();
    assert!(sizes <= total_bytes && sizes > total_bytes / 2, "{sizes}");
}

#[tokio::test]
async fn what_is_too_old_is_removed_at_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = open(options(folder.path(), "node-1/1")).await;
    write(&mut spool.sink(key(1), Beginning::AtOnce), Stream::Both, &[b"old"]).await;
    close(spool).await;
    let strange = folder.path().join("node-1%2F1.out/notes.txt");
    fs::write(&strange, "mine").expect("writable");
    let later = Clock::new(|| Clock::system().now().plus(2 * AGE_DEFAULT), 1);
    let spool = Spool::open(options(folder.path(), "node-1/2"), later).await.expect("a usable folder");
    assert!(spool.read(&key(1), Wanted::default()).is_none());
    assert!(!folder.path().join("node-1%2F1.out/1_4096-1774746000000").exists());
    assert!(strange.exists(), "what is not its own is left alone");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_holds_up_the_attempt_for_so_long_and_then_costs_output() {
    // A queue that nobody empties stands for the disk.
    let (mut sink, taken) = Sink::stuck(open_paused().await);
    let begun = Instant::now();
    for _ in 0..QUEUED_PIECES + 3 {
        sink.ready().await;
        sink.write(Stream::Both, b"12345");
    }
    let waited = begun.elapsed();
    assert!(waited >= STALL_MAX && waited < 2 * STALL_MAX, "{waited:?}");
    let mut taken = taken;
    while taken.try_recv().is_ok() {}
    sink.ready().await;
    sink.write(Stream::Both, b"again");
    let said = taken.recv().await.expect("there is room again");
    assert_eq!((said.dropped_before, said.bytes.as_slice()), (15, &b"again"[..]));
}

/// Opened where time does not move.
async fn open_paused() -> Spool {
    let folder = tempfile::tempdir().expect("a folder").keep();
    let spool = open(options(&folder, "node-1/1")).await;
    fs::remove_dir_all(folder).expect("it is ours");
    spool
}
