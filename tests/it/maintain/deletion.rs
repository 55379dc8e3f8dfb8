//! What was deleted is gone, stays gone, and nothing else went.

use std::{sync::Arc, time::Duration};

use futures::TryStreamExt as _;
use object_store::{memory::InMemory, path::Path};
use tracehouse::{
    config::{HumanDuration, Settings},
    error::ErrorKind,
    maintain::{
        copy::copy_tables,
        delete::{DeleteReport, Deleter},
        verify::{Problem, Verifier, VerifyReport},
    },
    model::{tenant::TenantId, time::TimeRange},
    query::SpanFilter,
    storage::{paths, store::Store},
};

use super::{
    compact_all,
    house::{DUMP, House, NOW, Plain, SECOND, plain, random, seeded, trace_id},
};

const BEFORE_NOW: TimeRange = TimeRange { start_unix_nano: i64::MIN, end_unix_nano: NOW + 10_000 * SECOND };

fn deleter(house: &House) -> Deleter {
    let mut settings = Settings::default();
    settings.deletion.tombstone_age_max = HumanDuration::hours(24);
    let (engine, metrics) = (Arc::clone(&house.engine), Arc::clone(&house.metrics));
    Deleter::new(Arc::clone(&house.catalog), engine, house.shared_clock(), metrics, &settings)
}

async fn delete(house: &House, deleter: &Deleter, filter: SpanFilter, range: TimeRange) -> DeleteReport {
    let flush = async { house.ingest.flush().await.map(|_| ()) };
    deleter.delete(&TenantId::single(), filter, range, flush).await.unwrap()
}

async fn verify(house: &House) -> VerifyReport {
    let live = Arc::clone(house.ingest.live());
    let verifier = Verifier::new(Arc::clone(&house.catalog), Arc::clone(&house.engine), live);
    verifier.verify(&TenantId::single()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_trace_goes_from_files_and_buffer_and_does_not_come_back() {
    let house = House::open().await;
    let mut seed = seeded(3);
    house.store(random(&mut seed, 400, 20, NOW)).await;
    house.store(random(&mut seed, 400, 20, NOW)).await;
    house.write(random(&mut seed, 400, 20, NOW)).await;
    let id = trace_id(7).to_string();
    let of_trace = format!("SELECT count(*) FROM spans WHERE trace_id = '{id}'");
    let others = format!("SELECT * FROM spans WHERE trace_id <> '{id}' ORDER BY trace_id, span_id");
    let expected = house.count(&of_trace).await;
    let before = house.sql(&others).await;
    let deleter = deleter(&house);
    let report = delete(&house, &deleter, SpanFilter::TraceId(id.clone()), TimeRange::ALL).await;
    assert!(expected > 10);
    assert_eq!((report.spans as i64, report.files_checked), (expected, 3));
    assert_eq!(house.count(&of_trace).await, 0);
    assert!(house.sql(&others).await == before, "a deletion changed other traces");

    // A process that does not screen, such as another server that has not heard of it, shows a late span until its next round.
    let late = || plain(&[Plain { trace: 7, span: 1, start: NOW, user: "late" }]);
    house.write(late()).await;
    assert_eq!(house.count(&of_trace).await, 1);
    let problems = verify(&house).await.problems;
    assert!(problems.len() == 1 && problems[0].place == "log", "{problems:?}");
    house.ingest.flush().await.unwrap();
    let report = deleter.enforce(&TenantId::single()).await.unwrap();
    assert_eq!((report.spans, report.files_checked), (1, 1), "files that were looked at are not looked at again");
    assert_eq!(house.count(&of_trace).await, 0);

    // With the screen, it is never there.
    house.ingest.set_screen(deleter.tombstones().screen());
    house.write(late()).await;
    assert_eq!(house.count(&of_trace).await, 0);
    assert_eq!(verify(&house).await.problems, vec![]);

    // Neither compaction nor a new process brings anything back.
    compact_all(&house.catalog, &house.shared_clock()).await;
    let report = super::deletion::deleter(&house).enforce(&TenantId::single()).await.unwrap();
    assert_eq!((report.spans, report.files), (0, 0));
    let verified = verify(&house).await;
    assert_eq!((verified.problems, verified.tombstones), (vec![], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_deletes_exactly_what_it_finds() {
    let conditions = [
        (
            SpanFilter::Traceql(
                "{ span.http.response.status_code >= 300 && resource.service.name != `web` }".to_owned(),
            ),
            "attr_int(span_attributes, 'http.response.status_code') >= 300 AND service_name <> 'web'",
        ),
        (
            SpanFilter::Sql("span_attributes['free.text'] IN ('v1', 'v2') OR name = 'op 3'".to_owned()),
            "span_attributes['free.text'] IN ('v1', 'v2') OR name = 'op 3'",
        ),
    ];
    for (filter, condition) in conditions {
        let house = House::open().await;
        let mut seed = seeded(5);
        for _ in 0..3 {
            house.store(random(&mut seed, 300, 20, NOW)).await;
        }
        let found = house.count(&format!("SELECT count(*) FROM spans WHERE {condition}")).await;
        let rest = format!("SELECT * FROM spans WHERE ({condition}) IS NOT TRUE ORDER BY trace_id, span_id");
        let before = house.sql(&rest).await;
        let report = delete(&house, &deleter(&house), filter.clone(), BEFORE_NOW).await;
        assert!(found > 5 && report.spans as i64 == found, "{filter:?} deleted {} of {found}", report.spans);
        assert!(house.sql("SELECT * FROM spans ORDER BY trace_id, span_id").await == before, "{filter:?}");
        assert_eq!(verify(&house).await.problems, vec![]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_about_its_time_range_only() {
    let house = House::open().await;
    let span = Plain { trace: 1, span: 1, start: NOW, user: "u" };
    let later = Plain { span: 2, start: NOW + 100, ..span };
    house.store(plain(&[span, later])).await;
    let filter = SpanFilter::Sql("span_attributes['enduser'] = 'u'".to_owned());
    let deleter = deleter(&house);
    let report = delete(&house, &deleter, filter, TimeRange::new(i64::MIN, NOW + 100)).await;
    assert_eq!(report.spans, 1);
    house
        .store(plain(&[Plain { span: 3, start: NOW + 50, ..span }, Plain { span: 4, start: NOW + 200, ..span }]))
        .await;
    assert_eq!(deleter.enforce(&TenantId::single()).await.unwrap().spans, 1);
    let left = house.sql("SELECT span_id FROM spans ORDER BY 1").await;
    insta::assert_snapshot!(left, @r"
    +------------------+
    | span_id          |
    +------------------+
    | 0000000000000002 |
    | 0000000000000004 |
    +------------------+
    ");
    // Once the tombstone is too old, spans that arrive stay.
    house.clock.advance(Duration::from_secs(25 * 3600));
    deleter.enforce(&TenantId::single()).await.unwrap();
    house.store(plain(&[span])).await;
    assert_eq!(deleter.enforce(&TenantId::single()).await.unwrap(), DeleteReport::default());
    assert_eq!(house.count("SELECT count(*) FROM spans").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_is_not_decided_span_by_span_is_refused_and_leaves_nothing() {
    let house = House::open().await;
    house.store(random(&mut seeded(9), 50, 5, NOW)).await;
    let before = house.sql(DUMP).await;
    let deleter = deleter(&house);
    for filter in [
        SpanFilter::TraceId("xyz".to_owned()),
        SpanFilter::Traceql("{ } | count() > 2".to_owned()),
        SpanFilter::Traceql("{ name = }".to_owned()),
        SpanFilter::Sql("true) IS TRUE AS hit, start_time AS start FROM spans --".to_owned()),
        SpanFilter::Sql("name = 'a' OR".to_owned()),
        SpanFilter::Sql("no_such_column = 1".to_owned()),
        SpanFilter::Sql("count(*) > 0".to_owned()),
        SpanFilter::Sql("trace_id IN (SELECT trace_id FROM spans)".to_owned()),
        SpanFilter::Sql("start_time < now()".to_owned()),
        SpanFilter::Sql("random() < 0.5".to_owned()),
    ] {
        let refused = deleter.delete(&TenantId::single(), filter.clone(), TimeRange::ALL, async { Ok(()) }).await;
        let error = refused.expect_err(&format!("{filter:?} was accepted"));
        let refusals = [ErrorKind::InvalidArgument, ErrorKind::Unsupported];
        assert!(refusals.contains(&error.kind()), "{filter:?}: {error:?}");
    }
    assert_eq!(deleter.tombstones().refresh().await.unwrap(), vec![]);
    assert_eq!(deleter.tombstones().tenants(), vec![]);
    assert!(house.sql(DUMP).await == before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_finds_what_is_wrong_with_a_file() {
    let house = House::open().await;
    house.store(random(&mut seeded(4), 200, 10, NOW)).await;
    house.store(random(&mut seeded(5), 200, 10, NOW - 86_400 * SECOND)).await;
    let verified = verify(&house).await;
    assert_eq!((verified.problems, verified.files, verified.rows), (vec![], 2, 400));
    let snapshot = house.table().await.snapshot();
    let files: Vec<_> = snapshot.files().map(|file| house.folder.path().join(file.location.as_ref())).collect();
    let mut bytes = std::fs::read(&files[0]).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    std::fs::write(&files[0], bytes).unwrap();
    std::fs::remove_file(&files[1]).unwrap();
    let problems = verify(&house).await.problems;
    let has = |place: &str, part: &str| {
        problems.iter().any(|Problem { place: at, message }| at == place && message.contains(part))
    };
    let places: Vec<String> = snapshot.files().map(|file| file.path.to_string()).collect();
    assert!(has(&places[0], "has checksum "), "{problems:?}");
    assert!(has(&places[1], "is live and not in the store"), "{problems:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_after_a_deletion_is_never_visible_if_it_matches() {
    let house = House::open().await;
    let deleter = deleter(&house);
    house.ingest.set_screen(deleter.tombstones().screen());
    house.store(random(&mut seeded(31), 100, 10, NOW)).await;
    let filter = SpanFilter::Sql("span_attributes['enduser'] = 'u'".to_owned());
    delete(&house, &deleter, filter, TimeRange::new(i64::MIN, NOW + 100)).await;
    let traceql = SpanFilter::Traceql("{ span.enduser = `v` }".to_owned());
    delete(&house, &deleter, traceql, TimeRange::new(NOW + 50, NOW + 200)).await;
    delete(&house, &deleter, SpanFilter::TraceId(trace_id(77).to_string()), TimeRange::ALL).await;

    let span = Plain { trace: 500, span: 1, start: NOW + 60, user: "u" };
    let others = [
        Plain { span: 2, user: "v", ..span },
        Plain { span: 3, user: "w", ..span },
        Plain { span: 4, start: NOW + 100, ..span },
        Plain { span: 5, start: NOW + 40, user: "v", ..span },
        Plain { trace: 77, span: 6, start: NOW + 900, user: "w" },
    ];
    let shown = || house.sql("SELECT span_id FROM spans WHERE span_attributes['enduser'] IS NOT NULL ORDER BY 1");
    house.write(plain(&[&[span][..], &others].concat())).await;
    let buffered = shown().await;
    insta::assert_snapshot!(buffered, @r"
    +------------------+
    | span_id          |
    +------------------+
    | 0000000000000003 |
    | 0000000000000004 |
    | 0000000000000005 |
    +------------------+
    ");
    // A request that is deleted as a whole is acknowledged, and leaves nothing.
    house.write(plain(&[span])).await;
    house.ingest.flush().await.unwrap();
    assert_eq!(shown().await, buffered);
    assert_eq!(verify(&house).await.problems, vec![]);
    assert_eq!(deleter.enforce(&TenantId::single()).await.unwrap().spans, 0, "nothing of it got into a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_of_another_process_are_found_with_one_listing() {
    let house = House::open().await;
    house.store(random(&mut seeded(33), 100, 10, NOW)).await;
    let (here, elsewhere) = (deleter(&house), deleter(&house));
    here.tombstones().load().await.unwrap();
    let filter = SpanFilter::TraceId(trace_id(3).to_string());
    delete(&house, &elsewhere, filter, TimeRange::ALL).await;
    assert_eq!(here.tombstones().tenants(), vec![]);
    assert_eq!(here.tombstones().refresh().await.unwrap(), [TenantId::single()]);
    assert_eq!(here.tombstones().refresh().await.unwrap(), [], "no news");
    house.ingest.set_screen(here.tombstones().screen());
    house.write(plain(&[Plain { trace: 3, span: 1, start: NOW, user: "late" }])).await;
    assert_eq!(house.count("SELECT count(*) FROM spans WHERE span_attributes['enduser'] = 'late'").await, 0);

    // One that cannot be read stops the deletions of its tenant, and of no other.
    let path = paths::tombstone(&TenantId::single(), uuid::Uuid::nil());
    house.store.put(&path, "{}".into()).await.unwrap();
    here.tombstones().refresh().await.unwrap();
    let error = here.enforce(&TenantId::single()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let other = TenantId::parse("other").unwrap();
    assert_eq!(here.enforce(&other).await.unwrap(), DeleteReport::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_a_former_build_left_beside_the_table_holds_and_is_moved() {
    let (house, tenant) = (House::open().await, TenantId::single());
    house.store(random(&mut seeded(34), 100, 10, NOW)).await;
    let id = trace_id(3);
    delete(&house, &deleter(&house), SpanFilter::TraceId(id.to_string()), TimeRange::ALL).await;
    let (place, former) = (paths::tombstones_folder(&tenant), paths::former_tombstones_folder(&tenant));
    let in_folder = async |folder: &Path| house.store.list(folder).try_collect::<Vec<_>>().await.unwrap();
    let [tombstone] = &in_folder(&place).await[..] else { panic!("one deletion, one tombstone") };
    let bytes = house.store.get(&tombstone.location).await.unwrap().unwrap();
    house.store.delete(&tombstone.location).await.unwrap();
    house.store.put(&former.clone().join(tombstone.location.filename().unwrap()), bytes).await.unwrap();

    // Who only reads does not move it, and keeps to it.
    assert_eq!(verify(&house).await.tombstones, 1);
    let backup = Store::new(Arc::new(InMemory::new()));
    copy_tables(&house.catalog, &backup).await.unwrap();
    assert!(backup.get(&tombstone.location).await.unwrap().is_some());
    assert_eq!((in_folder(&place).await.len(), in_folder(&former).await.len()), (0, 1));

    let next = deleter(&house);
    next.tombstones().load().await.unwrap();
    assert_eq!(next.tombstones().tenants(), [tenant]);
    assert_eq!((in_folder(&place).await.len(), in_folder(&former).await.len()), (1, 0));
    house.ingest.set_screen(next.tombstones().screen());
    house.write(plain(&[Plain { trace: 3, span: 1, start: NOW, user: "late" }])).await;
    assert_eq!(house.count(&format!("SELECT count(*) FROM spans WHERE trace_id = '{id}'")).await, 0);
    assert_eq!(verify(&house).await.tombstones, 1);
}
