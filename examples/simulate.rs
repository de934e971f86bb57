//! What a replica costs: 30 simulated days of commits, compactions, snapshots and retention, as a Markdown table.
//!
//! `make simulate` writes it to `docs/cost.md`. The clock is false and files are sizes only; the decisions are the
//! extension's own, and a restore's. Prices are S3's list prices (us-east-1, Standard).

#[path = "../tests/support/simulator.rs"]
mod simulator;

use litestream_engine::due::Schedule;
use simulator::{Outcome, Scene, run};

const GIB: f64 = (1u64 << 30) as f64;
/// Dollars for a GiB stored for a month, for a PUT or LIST, for a GET or HEAD, for a GiB sent out of the region.
const STORED: f64 = 0.023;
const PUT: f64 = 0.005 / 1000.0;
const GET: f64 = 0.0004 / 1000.0;
const SENT: f64 = 0.09;

fn main() {
    let scene = |name, gib: u64, pace, together| Scene {
        name,
        database: gib << 30,
        pace,
        together,
        days: 30,
        schedule: Schedule::default(),
    };
    let scenes = [
        scene("1 GB, 1 commit/s", 1, 1000, 1),
        scene("1 GB, 1 commit/s, `sync-interval=10s`", 1, 1000, 10),
        scene("1 GB, 1 commit/h", 1, 3_600_000, 1),
        scene("100 GB, 1 commit/s", 100, 1000, 1),
        scene("100 GB, 1 commit/s, `sync-interval=10s`", 100, 1000, 10),
        scene("100 GB, 1 commit/h", 100, 3_600_000, 1),
    ];
    println!("# What a replica costs\n");
    println!(
        "Made by `make simulate`: 30 days with the default settings (levels 30 s, 5 min, 1 h; snapshots every 24 h;"
    );
    println!(
        "24 h of history), a false clock, sizes only; the decisions are the extension's own. Each commit changes three"
    );
    println!(
        "pages of 4 KiB, one of them at a random place. Pages count as if they did not compress; LZ4 usually halves"
    );
    println!("them. Traffic and requests are averages of a day after the first week. Prices are S3's list prices in");
    println!(
        "us-east-1 for Standard: $0.023 for a GB-month, $0.005 for 1,000 PUTs, $0.0004 for 1,000 GETs; DELETEs and"
    );
    println!("data sent to S3 are free.\n");
    println!(
        "| database | objects | stored | uploaded a day | read back a day | PUT a day | GET a day | DELETE a day | a restore reads | price a month | read back, outside of AWS |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for scene in scenes {
        println!("{}", row(scene.name, scene.database, &run(scene.clone())));
    }
    println!("\nNearly all of the price at one commit a second is the PUT of one small file a second: a longer");
    println!("`sync-interval` divides it. A database that nobody writes makes no request at all.\n");
    println!(
        "Read back is what a snapshot is made of: the last one and the hours since. It is free within the region of"
    );
    println!(
        "the bucket and at stores that do not charge for it; elsewhere S3 charges $0.09 for each GB (last column)."
    );
    println!(
        "A longer `snapshot-interval` divides it, at the price of restores that read more files. That reading also"
    );
    println!(
        "proves the last snapshot before older files go; where no next one comes, it is read once for that alone."
    );
}

fn row(name: &str, database: u64, outcome: &Outcome) -> String {
    let day = outcome.day;
    let price = outcome.stored_most as f64 / GIB * STORED
        + 30.0 * ((day.puts + day.lists) as f64 * PUT + (day.gets + day.heads) as f64 * GET);
    let sent = 30.0 * day.fetched as f64 / GIB * SENT;
    format!(
        "| {name} | {} | {} | {} | {} | {} | {} | {} | {:.2} × the database, {} files | ${price:.2} | ${sent:.2} |",
        outcome.objects,
        bytes(outcome.stored_most),
        bytes(day.uploaded),
        bytes(day.fetched),
        day.puts,
        day.gets,
        day.deletes,
        outcome.restore as f64 / database as f64,
        outcome.restore_files,
    )
}

fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes >= GIB => format!("{:.1} GB", bytes / GIB),
        bytes => format!("{:.1} MB", bytes / f64::from(1 << 20)),
    }
}
