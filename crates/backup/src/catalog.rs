//! Which backups a store holds: those that have a manifest, and only those.
//!
//! The names are `MASTER/ID.rdb.zst[.age]` (the data), `MASTER/ID.manifest.json`, and `MASTER/ID.verified.json` or
//! `MASTER/ID.damaged.json` once a check found it whole or damaged. The store's list is the only index: nothing else can
//! be out of date, and data that is gone or cut off is seen without reading it.

use futures_util::{StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::store::{Object, Store};
use super::{Error, Manifest, output};

/// What the id of a safety backup ends with.
pub const SAFETY: &str = "-safety";
const MANIFEST: &str = ".manifest.json";
const VERIFIED: &str = ".verified.json";
const DAMAGED: &str = ".damaged.json";
/// What the name of a data object contains behind the id.
const DATA: &str = ".rdb";
/// Manifests are small; this many are asked for at once.
const AT_ONCE: usize = 8;
/// Clocks of several hosts differ by no more, as a rule.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(5);
/// The format of manifests that this program writes and reads.
pub const FORMAT: u32 = 1;
/// No backup is so large, a pebibyte: what manifests say is added up.
const MOST_BYTES: u64 = 1 << 50;

/// One backup of a store.
#[derive(Clone, Debug)]
pub struct Backup {
    /// The monitored name that it belongs to: its folder.
    pub master_name: String,
    /// Its id, as the manifest's name has it.
    pub id: String,
    /// Its manifest, or why it cannot be used: [`Error::Unsound`] or [`Error::Newer`] with a part of a sentence.
    pub manifest: Result<Manifest, Error>,
    /// When a check last found it whole, by the store's clock; `None` also when it is damaged now.
    pub verified: Option<Timestamp>,
    /// What is known to be wrong with its data, as a part of a sentence.
    pub damage: Option<String>,
}

/// The object `….verified.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// When, by the clock of the host that checked.
    pub at: Timestamp,
    /// Whether a redis-server loaded it too.
    pub drill: bool,
    /// The version of the switchmaster that checked.
    pub tool: String,
}

/// The object `….damaged.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Damaged {
    /// When, by the clock of the host that checked.
    pub at: Timestamp,
    /// What the check found.
    pub why: String,
    /// The version of the switchmaster that checked.
    pub tool: String,
}

/// The name of the object with the data.
pub fn object_name(master_name: &str, object: &str) -> String {
    format!("{master_name}/{object}")
}

/// The name of the manifest.
pub fn manifest_name(master_name: &str, id: &str) -> String {
    format!("{master_name}/{id}{MANIFEST}")
}

/// The name of the mark that a check leaves which found it whole.
pub fn verified_name(master_name: &str, id: &str) -> String {
    format!("{master_name}/{id}{VERIFIED}")
}

/// The name of the mark that a check leaves which found it damaged.
pub fn damaged_name(master_name: &str, id: &str) -> String {
    format!("{master_name}/{id}{DAMAGED}")
}

/// The id of a backup taken at `at` from the stream `replid` at `offset`.
pub fn id(at: Timestamp, replid: &str, offset: u64) -> String {
    let replid: String = replid.chars().take(8).collect();
    format!("{}-{replid}-{offset}", at.strftime("%Y%m%dT%H%M%SZ"))
}

/// Whether it was made only to undo a restore: `latest` never means it, and no rule of `prune` counts it.
pub fn is_safety(id: &str) -> bool {
    id.ends_with(SAFETY)
}

/// Whether a backup was made by a clock that is ahead of `now` by more than honest clocks are.
pub fn is_of_the_future(created: Timestamp, now: Timestamp) -> bool {
    now.duration_since(created) < -CLOCKS_DIFFER
}

/// Every backup of `master_name`, or of all names, the oldest first.
pub async fn list(store: &Store, master_name: Option<&str>) -> Result<Vec<Backup>, Error> {
    of_objects(store, &objects(store, master_name).await?).await
}

/// The objects right in the folder of `master_name`, or of all names, in the order of their names. What lies deeper
/// (locks, segments) is no business of the catalogue, and may be much.
pub async fn objects(store: &Store, master_name: Option<&str>) -> Result<Vec<Object>, Error> {
    let mut names = match master_name {
        Some(name) => vec![name.to_owned()],
        None => store.list_folder("").await?.1,
    };
    names.sort();
    let mut objects = Vec::new();
    for name in names {
        let (found, folders) = match store.list_folder(&name).await {
            // Those of the others are none the worse.
            Err(Error::Unreadable(why)) if master_name.is_none() => {
                store.pass_over(&why);
                continue;
            }
            listed => listed?,
        };
        objects.extend(found);
        // What has the name of a manifest and is none must be seen, or else its data would be nobody's.
        let strange = folders.iter().filter(|folder| folder.ends_with(MANIFEST));
        let object = |folder: &String| Object { name: format!("{name}/{folder}"), bytes: 0, modified: Timestamp::MAX };
        objects.extend(strange.map(object));
    }
    objects.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(objects)
}

/// The newest usable backup of `master_name` that was made for its own sake, and is not known to be damaged.
pub async fn newest(store: &Store, master_name: &str) -> Result<Option<Backup>, Error> {
    let objects = objects(store, Some(master_name)).await?;
    last(store, &objects, &names(&objects), |backup| backup.damage.is_none() && backup.manifest.is_ok()).await
}

/// The backups among `objects`, which are in the order of their names, the oldest first.
pub async fn of_objects(store: &Store, objects: &[Object]) -> Result<Vec<Backup>, Error> {
    let manifests = objects.iter().filter_map(|object| split(&object.name, MANIFEST));
    let reading = manifests.map(|(master_name, id)| async move {
        let name = manifest_name(master_name, id);
        let manifest = match store.get(&name).await {
            Ok(Some(bytes)) => parse(&bytes, master_name, id),
            Ok(None) => return Ok::<_, Error>(None),
            Err(Error::Unreadable(why)) => {
                store.pass_over(&why);
                Err(Error::Unsound(format!("cannot be read: {why}")))
            }
            Err(error) => return Err(error),
        };
        let when = |mark: String| find(objects, &mark).map(|object| object.modified);
        let verified = when(verified_name(master_name, id));
        // Of two marks the younger counts: the other one is about to be deleted.
        let found = when(damaged_name(master_name, id)).filter(|found| verified.is_none_or(|whole| whole <= *found));
        let damage = manifest.as_ref().ok().and_then(|manifest| damage(objects, manifest, found));
        let verified = verified.filter(|_| damage.is_none());
        Ok(Some(Backup { master_name: master_name.to_owned(), id: id.to_owned(), manifest, verified, damage }))
    });
    let mut backups: Vec<Backup> = futures_util::stream::iter(reading)
        .buffered(AT_ONCE)
        .try_filter_map(async |found| Ok(found))
        .try_collect()
        .await?;
    backups.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(backups)
}

/// The one backup that `wanted` means: its id, the beginning of one, or `latest`, which passes over what is known to be
/// damaged or has no manifest that can be read (with a warning) as long as there is another one.
///
/// Fails with [`Error::NotFound`], and with [`Error::Usage`] when several are meant.
pub async fn resolve(store: &Store, master_name: Option<&str>, wanted: &str) -> Result<Backup, Error> {
    let objects = objects(store, master_name).await?;
    let names = names(&objects);
    let whose = master_name.map(|name| format!(" of {name}")).unwrap_or_default();
    let none = |what: String| Error::NotFound(format!("{}: there is no backup{whose}{what}", store.location()));
    let matching: Vec<(&str, &str)> = match wanted {
        "latest" => names.iter().rfind(|(_, id)| !is_safety(id)).copied().into_iter().collect(),
        wanted => {
            let exact = names.iter().filter(|(_, id)| *id == wanted);
            let exact: Vec<_> = exact.copied().collect();
            let begins = || names.iter().filter(|(_, id)| id.starts_with(wanted)).copied().collect();
            if exact.is_empty() { begins() } else { exact }
        }
    };
    let masters = |names: &[(&str, &str)]| {
        let mut masters: Vec<String> = names.iter().map(|(master, _)| (*master).to_owned()).collect();
        masters.sort();
        masters.dedup();
        masters
    };
    let masters = masters(if wanted == "latest" { &names } else { &matching });
    if masters.len() > 1 {
        return Err(Error::Usage(format!(
            "{} holds backups of {}: choose one with --master-name",
            store.location(),
            masters.join(", ")
        )));
    }
    match matching.as_slice() {
        [] if names.is_empty() => Err(none(String::new())),
        [] => Err(none(format!(" {wanted}; `switchmaster backup list` shows what there is"))),
        [(master_name, id)] => {
            let sound = |backup: &Backup| {
                let id = &backup.id;
                let why = match (&backup.manifest, &backup.damage) {
                    (Err(why), _) => format!("its manifest {why}"),
                    (_, Some(damage)) => {
                        format!("it is damaged: {damage} (`switchmaster backup verify {id}` looks again)")
                    }
                    (Ok(manifest), None) => {
                        if is_of_the_future(manifest.created, Timestamp::now()) {
                            tracing::warn!("the latest one, {id}, is dated in the future: is a clock wrong?");
                        }
                        return true;
                    }
                };
                tracing::warn!("passed over {id}: {why}");
                false
            };
            let latest = match wanted {
                "latest" => last(store, &objects, &names, sound).await?,
                _ => None,
            };
            // Where all are damaged, whoever reads it will hear why.
            let found = if latest.is_some() { latest } else { load(store, &objects, master_name, id).await? };
            found.ok_or_else(|| none(format!(" {id} any more")))
        }
        several => {
            let ids: Vec<&str> = several.iter().map(|(_, id)| *id).collect();
            Err(Error::Usage(format!("{wanted} may be any of {}: give more of it", ids.join(", "))))
        }
    }
}

impl Backup {
    /// The manifest, or [`Error::Unsound`] or [`Error::Newer`] with what is wrong with it.
    pub fn usable(&self) -> Result<&Manifest, Error> {
        self.manifest.as_ref().map_err(|why| {
            let text = format!("backup {}: its manifest {why}", self.id);
            if matches!(why, Error::Newer(_)) { Error::Newer(text) } else { Error::Unsound(text) }
        })
    }
}

/// Objects with the data of a backup that have no manifest, one folder deep: what an interrupted run left.
pub fn orphans(objects: &[Object]) -> impl Iterator<Item = &Object> {
    let has_manifest = |master_name: &str, id: &str| find(objects, &manifest_name(master_name, id)).is_some();
    objects.iter().filter(move |object| {
        let data = object.name.split_once('/').and_then(|(master, file)| Some((master, file.split_once(DATA)?.0)));
        let mark = split(&object.name, VERIFIED).or(split(&object.name, DAMAGED));
        data.or(mark).is_some_and(|(master, id)| is_id(id) && !has_manifest(master, id))
    })
}

/// Master name and id of everything that has a manifest, the oldest first.
fn names(objects: &[Object]) -> Vec<(&str, &str)> {
    let mut names: Vec<(&str, &str)> = objects.iter().filter_map(|object| split(&object.name, MANIFEST)).collect();
    names.sort_by_key(|(_, id)| *id);
    names
}

/// The last of `names` that fits and is there to be restored for its own sake; older ones are not read.
async fn last(
    store: &Store,
    objects: &[Object],
    names: &[(&str, &str)],
    fits: impl Fn(&Backup) -> bool,
) -> Result<Option<Backup>, Error> {
    for (master_name, id) in names.iter().rev().filter(|(_, id)| !is_safety(id)) {
        let found = load(store, objects, master_name, id).await?;
        if found.as_ref().is_some_and(&fits) {
            return Ok(found);
        }
    }
    Ok(None)
}

async fn load(store: &Store, objects: &[Object], master_name: &str, id: &str) -> Result<Option<Backup>, Error> {
    let name = object_name(master_name, id);
    let ours: Vec<Object> = objects.iter().filter(|object| object.name.starts_with(&name)).cloned().collect();
    Ok(of_objects(store, &ours).await?.into_iter().find(|backup| backup.id == id))
}

/// What is wrong with the data as the list has it; or else, if a check `found` it damaged, that.
fn damage(objects: &[Object], manifest: &Manifest, found: Option<Timestamp>) -> Option<String> {
    match find(objects, &object_name(&manifest.master_name, &manifest.object)) {
        None => Some("its data is gone".to_owned()),
        Some(data) if data.bytes != manifest.stored_bytes => {
            Some(format!("its data has {} bytes instead of {}", data.bytes, manifest.stored_bytes))
        }
        Some(_) => found.map(|at| format!("found by a check at {}", output::seconds(at))),
    }
}

/// The object of this name; they are in the order of their names.
fn find<'a>(objects: &'a [Object], name: &str) -> Option<&'a Object> {
    let at = objects.binary_search_by(|object| object.name.as_str().cmp(name)).ok()?;
    objects.get(at)
}

/// `MASTER/IDsuffix` as its two parts.
fn split<'a>(name: &'a str, suffix: &str) -> Option<(&'a str, &'a str)> {
    let (master_name, file) = name.split_once('/')?;
    Some((master_name, file.strip_suffix(suffix)?)).filter(|(_, id)| is_id(id))
}

/// `20261120T031400Z-0123abcd-4711`, and nothing with a folder in it.
fn is_id(text: &str) -> bool {
    let parts: Vec<&str> = text.strip_suffix(SAFETY).unwrap_or(text).split('-').collect();
    let time = |part: &str| part.len() == 16 && part.as_bytes()[8] == b'T' && part.ends_with('Z');
    match parts.as_slice() {
        [at, replid, offset] => {
            time(at)
                && replid.bytes().all(|byte| byte.is_ascii_alphanumeric())
                && offset.bytes().all(|byte| byte.is_ascii_digit())
        }
        _ => false,
    }
}

/// A manifest, or what is wrong with it. It must say what its name says: nothing else is read by its word.
///
/// # Errors
/// [`Error::Unsound`] or [`Error::Newer`] with a part of a sentence.
pub fn parse(bytes: &[u8], master_name: &str, id: &str) -> Result<Manifest, Error> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let unsound = Error::Unsound;
    let format: Format = serde_json::from_slice(bytes).map_err(|error| unsound(format!("is no manifest: {error}")))?;
    if format.format != FORMAT {
        return Err(Error::Newer(format!("has the format {}: that needs a newer switchmaster", format.format)));
    }
    if !Manifest::is_sealed(bytes) {
        return Err(unsound("is damaged: it is not what its seal is of".into()));
    }
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| unsound(format!("is damaged: {error}")))?;
    if manifest.id != id || manifest.master_name != master_name {
        return Err(unsound(format!("is that of {} of {}", manifest.id, manifest.master_name)));
    }
    if let Some(bytes) = [manifest.plain_bytes, manifest.stored_bytes].into_iter().find(|&bytes| bytes > MOST_BYTES) {
        return Err(unsound(format!("tells of {bytes} bytes, which no store holds")));
    }
    if i64::try_from(manifest.source.offset).is_err() {
        return Err(unsound(format!("tells of the offset {}, which no server reaches", manifest.source.offset)));
    }
    match manifest.object.strip_prefix(id) {
        Some(rest) if rest.starts_with(DATA) && !rest.contains('/') => Ok(manifest),
        _ => Err(unsound(format!("names {:?} as its data", manifest.object))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_time_stream_and_offset() {
        let at: Timestamp = "2026-11-20T03:14:00.5Z".parse().unwrap();
        let made = id(at, "0123456789abcdef0123456789abcdef01234567", 4711);
        assert_eq!(made, "20261120T031400Z-01234567-4711");
        assert!(is_id(&made) && !is_safety(&made));
        let safety = format!("{made}{SAFETY}");
        assert!(is_id(&safety) && is_safety(&safety));
        for text in ["", "latest", "a-b-c", "20261120T031400Z-01/3-4", "lock-1-2"] {
            assert!(!is_id(text), "{text}");
        }
    }

    #[test]
    fn a_manifest_tells_of_what_can_be() {
        let id = "20261120T031400Z-01234567-4711";
        let sound = serde_json::json!({
            "format": 1, "id": id, "master_name": "m", "created": "2026-11-20T03:14:00Z", "object": format!("{id}.rdb.zst"),
            "source": { "addr": "127.0.0.1:1", "role": "replica", "version": "7", "run_id": "r", "replid": "0", "offset": 1 },
            "magic": "REDIS", "rdb_version": 11, "crc64": null, "plain_bytes": 1, "plain_sha256": "", "stored_bytes": 1,
            "stored_sha256": "", "counts": { "databases": {}, "functions": 0 }, "tool": "",
            "packing": { "compression": "zstd", "level": 3, "encryption": null, "recipients": [] },
        });
        let told = |pointer: &str, value: serde_json::Value| {
            let mut object = sound.clone();
            *object.pointer_mut(pointer).unwrap() = value;
            let manifest: Manifest = serde_json::from_value(object).unwrap();
            parse(&manifest.to_bytes().unwrap(), "m", id).map_err(|error| error.to_string())
        };
        assert!(told("/plain_bytes", MOST_BYTES.into()).is_ok());
        for pointer in ["/plain_bytes", "/stored_bytes"] {
            // Sums of them would count over.
            assert!(told(pointer, u64::MAX.into()).unwrap_err().contains("which no store holds"), "{pointer}");
        }
        assert!(told("/source/offset", u64::MAX.into()).unwrap_err().contains("which no server reaches"));
        for object in ["x", &format!("{id}.rdb/../../x"), &format!("../{id}.rdb.zst")] {
            assert!(told("/object", object.into()).unwrap_err().contains("as its data"), "{object}");
        }
    }

    #[test]
    fn an_orphan_has_no_manifest() {
        let object = |name: &str| Object { name: name.to_owned(), bytes: 1, modified: Timestamp::UNIX_EPOCH };
        let (a, b) = ("20261120T031400Z-01234567-1", "20261121T031400Z-01234567-2");
        let mut objects: Vec<Object> = [
            format!("m/{a}.rdb.zst"),
            format!("m/{a}.manifest.json"),
            format!("m/{b}.rdb.zst.age"),
            format!("m/{b}.verified.json"),
            format!("m/{b}.damaged.json"),
            "m/follow/x.rdb.zst".to_owned(),
            "m/notes.rdb".to_owned(),
            format!("{b}.rdb.zst"),
        ]
        .iter()
        .map(|name| object(name))
        .collect();
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        let found: Vec<&str> = orphans(&objects).map(|object| object.name.as_str()).collect();
        let names = ["damaged.json", "rdb.zst.age", "verified.json"].map(|name| format!("m/{b}.{name}"));
        assert_eq!(found, names);
    }
}
