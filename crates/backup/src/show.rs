//! `backup list` and `backup show`: backups as text for people, or as JSON for programs.

use std::io::Write;

use serde_json::{Value, json};

use super::catalog::{self, Backup, Verified};
use super::output::{count, line, seconds};
use super::store::Store;
use super::{Error, Manifest};
use crate::size;

/// Prints one line for each backup, the newest last.
pub async fn list(store: &Store, master_name: Option<&str>, json: bool, out: &mut dyn Write) -> Result<(), Error> {
    let backups = catalog::list(store, master_name).await?;
    if json {
        for backup in &backups {
            line(out, &object(store, backup).to_string())?;
        }
        return Ok(());
    }
    if backups.is_empty() {
        let whose = master_name.map(|name| format!(" of {name}")).unwrap_or_default();
        return line(out, &format!("no backup{whose} in {} yet: `switchmaster backup create`", store.location()));
    }
    let wide = |of: fn(&Backup) -> &str, head: &str| {
        backups.iter().map(|backup| of(backup).chars().count()).max().unwrap_or_default().max(head.len())
    };
    let (ids, masters) = (wide(|backup| &backup.id, "id"), wide(|backup| &backup.master_name, "master"));
    let row = |cells: [&str; 6]| {
        let [id, master, keys, plain, stored, verified] = cells;
        format!("{id:<ids$}  {master:<masters$}  {keys:>12}  {plain:>10}  {stored:>10}  {verified}")
    };
    line(out, &row(["id", "master", "keys", "plain", "stored", "verified"]))?;
    for backup in &backups {
        match &backup.manifest {
            Ok(manifest) => {
                let (keys, plain, stored) = (
                    manifest.counts.keys().to_string(),
                    size::rounded(manifest.plain_bytes),
                    size::rounded(manifest.stored_bytes),
                );
                let verified = match &backup.damage {
                    Some(damage) => format!("damaged: {damage}"),
                    None => backup.verified.map_or_else(|| "never".to_owned(), seconds),
                };
                line(out, &row([&backup.id, &backup.master_name, &keys, &plain, &stored, &verified]))?;
            }
            Err(why) => {
                line(out, &format!("{:<ids$}  {:<masters$}  its manifest {why}", backup.id, backup.master_name))?
            }
        }
    }
    Ok(())
}

/// Prints all that is known of one backup.
pub async fn show(store: &Store, backup: &Backup, json: bool, out: &mut dyn Write) -> Result<(), Error> {
    let manifest = backup.usable()?;
    let mark = match backup.verified {
        Some(_) => store.get(&catalog::verified_name(&backup.master_name, &backup.id)).await?,
        None => None,
    };
    let mark: Option<Verified> = mark.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if json {
        let mut object = object(store, backup);
        object["drill"] = json!(mark.is_some_and(|mark| mark.drill));
        return line(out, &object.to_string());
    }
    for (name, value) in fields(store, backup, manifest, mark.as_ref()) {
        line(out, &format!("{name:<12} {value}"))?;
    }
    Ok(())
}

fn fields(store: &Store, backup: &Backup, manifest: &Manifest, mark: Option<&Verified>) -> Vec<(String, String)> {
    let source = &manifest.source;
    let packing = &manifest.packing;
    let encryption = match packing.encryption.as_deref() {
        Some(name) => format!("{name}, for {}", packing.recipients.join(", ")),
        None => "none".to_owned(),
    };
    let verified = match (backup.verified, mark, &backup.damage) {
        (.., Some(damage)) => format!("damaged: {damage}"),
        (Some(at), Some(mark), _) if mark.drill => format!("{} (a redis-server loaded it)", seconds(at)),
        (Some(at), ..) => seconds(at),
        (None, ..) => format!("never: `switchmaster backup verify {}`", backup.id),
    };
    let mut fields = vec![
        ("id", manifest.id.clone()),
        ("object", store.url(&catalog::object_name(&backup.master_name, &manifest.object))),
        ("master", manifest.master_name.clone()),
        ("created", seconds(manifest.created)),
        ("source", format!("{} {} ({})", source.role, source.addr, source.version)),
        ("stream", format!("{} at {}", source.replid, source.offset)),
        (
            "plain",
            format!(
                "{} ({} bytes), {} version {}",
                size::rounded(manifest.plain_bytes),
                manifest.plain_bytes,
                manifest.magic,
                manifest.rdb_version
            ),
        ),
        ("crc64", manifest.crc64.clone().unwrap_or_else(|| "none: rdbchecksum is off at the source".to_owned())),
        ("sha256", manifest.plain_sha256.clone()),
        (
            "stored",
            format!(
                "{} ({} bytes), {} level {}",
                size::rounded(manifest.stored_bytes),
                manifest.stored_bytes,
                packing.compression,
                packing.level
            ),
        ),
        ("stored sha", manifest.stored_sha256.clone()),
        ("encryption", encryption),
        ("verified", verified),
        ("keys", manifest.counts.keys().to_string()),
    ];
    if manifest.counts.functions > 0 {
        fields.push(("functions", manifest.counts.functions.to_string()));
    }
    let mut fields: Vec<(String, String)> = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    for (number, db) in &manifest.counts.databases {
        let types: Vec<String> = db.types.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let expire = if db.expires == 1 { "expires" } else { "expire" };
        let (keys, types) = (count(db.keys, "key"), types.join(", "));
        fields.push((format!("db {number}"), format!("{keys}, {} {expire}: {types}", db.expires)));
    }
    fields
}

fn object(store: &Store, backup: &Backup) -> Value {
    match &backup.manifest {
        Ok(manifest) => {
            let mut object = json!(manifest);
            object["url"] = json!(store.url(&catalog::object_name(&backup.master_name, &manifest.object)));
            object["keys"] = json!(manifest.counts.keys());
            object["verified"] = json!(backup.verified);
            object["damaged"] = json!(backup.damage);
            object
        }
        Err(why) => {
            json!({ "id": backup.id, "master_name": backup.master_name, "error": format!("its manifest {why}") })
        }
    }
}
