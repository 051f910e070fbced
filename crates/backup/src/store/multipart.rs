//! Uploads that were begun and never completed: their parts cost money and no list of objects shows them.
//!
//! The object store's own library cannot list them, so the two requests (ListMultipartUploads, AbortMultipartUpload)
//! are made with its signatures and its HTTP client.

use std::time::Duration;

use hyper::{Method, Request};
use jiff::Timestamp;
use object_store::aws::AmazonS3;
use object_store::client::{HttpClient, HttpConnector, HttpRequestBody, ReqwestConnector};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use serde::Deserialize;

use super::Store;
use crate::Error;
use crate::config::Location;

/// `ListMultipartUploadsResult` of the S3 API, as far as it is needed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Listing {
    is_truncated: bool,
    next_key_marker: String,
    next_upload_id_marker: String,
    upload: Vec<Upload>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Upload {
    key: String,
    upload_id: String,
    initiated: Option<Timestamp>,
}

/// Pages of a listing, 1,000 uploads each, that are looked at in one run.
const MAX_PAGES: usize = 100;

pub(super) async fn abort_stale(store: &Store, under: &str, before: Timestamp) -> Result<usize, Error> {
    let Some((s3, options)) = &store.s3 else {
        return remove_staged(store, under, before);
    };
    let client = ReqwestConnector::default().connect(options);
    let client = client.map_err(|error| store.refused("listing uploads", under, &error))?;
    let prefix = store.path(under).to_string();
    let (mut key_marker, mut id_marker) = (String::new(), String::new());
    let mut aborted = 0;
    for _ in 0..MAX_PAGES {
        let mut query = vec![("uploads", ""), ("prefix", &prefix)];
        if !key_marker.is_empty() {
            query.extend([("key-marker", key_marker.as_str()), ("upload-id-marker", id_marker.as_str())]);
        }
        let (status, body) = ask(store, s3, &client, Method::GET, &Path::default(), &query).await?;
        if status != 200 {
            return Err(refused(store, "listing uploads", status, &body));
        }
        let listing: Listing = quick_xml::de::from_str(&body)
            .map_err(|error| Error::Store(format!("{}: the list of uploads is no such list: {error}", store.place)))?;
        for upload in &listing.upload {
            // A prefix matches as text: "redis" must not abort what belongs to "redis-2".
            let ours = prefix.is_empty() || upload.key.strip_prefix(&prefix).is_some_and(|rest| rest.starts_with('/'));
            if !ours || upload.initiated.is_none_or(|begun| begun >= before) {
                continue;
            }
            let path = Path::parse(&upload.key).map_err(|error| Error::Store(format!("{}: {error}", store.place)))?;
            let query = [("uploadId", upload.upload_id.as_str())];
            match ask(store, s3, &client, Method::DELETE, &path, &query).await? {
                (200 | 204 | 404, _) => aborted += 1,
                (status, body) => return Err(refused(store, "aborting an upload", status, &body)),
            }
        }
        if !listing.is_truncated {
            break;
        }
        (key_marker, id_marker) = (listing.next_key_marker, listing.next_upload_id_marker);
    }
    Ok(aborted)
}

async fn ask(
    store: &Store,
    s3: &AmazonS3,
    client: &HttpClient,
    method: Method,
    path: &Path,
    query: &[(&str, &str)],
) -> Result<(u16, String), Error> {
    let options = SignedUrlOptions::new().with_query(query.iter().copied());
    let asking = async {
        let url = s3.signed_url_opts(method.clone(), path, Duration::from_secs(300), &options).await;
        let url = url.map_err(|error| store.refused("signing a request for", path.as_ref(), &error))?;
        let request = Request::builder().method(method).uri(url.as_str()).body(HttpRequestBody::empty());
        let request = request.map_err(|error| Error::Internal(error.to_string()))?;
        let failed = |error: object_store::client::HttpError| Error::Store(format!("{}: {error}", store.place));
        let answer = client.execute(request).await.map_err(failed)?;
        let status = answer.status().as_u16();
        let body = answer.into_body().bytes().await.map_err(failed)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    store.within("asking for unfinished uploads", "", asking).await?
}

fn refused(store: &Store, doing: &str, status: u16, body: &str) -> Error {
    let code = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map_or("", |(code, _)| code);
    Error::Store(format!(
        "{}: {doing}: the service answered {status} {code}: where it cannot do this, let a lifecycle rule of the bucket \
         (AbortIncompleteMultipartUpload) remove what uploads left",
        store.place
    ))
}

/// What the library leaves in a folder when it is killed: `NAME#1` beside the object that was being written.
fn remove_staged(store: &Store, under: &str, before: Timestamp) -> Result<usize, Error> {
    let Location::Folder(folder) = &store.location else { return Ok(0) };
    let mut folders = vec![folder.join(under)];
    let mut removed = 0;
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name();
            let staged = name
                .to_str()
                .and_then(|name| name.rsplit_once('#'))
                .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
            let modified = entry.metadata().and_then(|meta| meta.modified()).ok();
            let old = modified.and_then(|at| Timestamp::try_from(at).ok()).is_some_and(|at| at < before);
            if kind.is_dir() {
                folders.push(entry.path());
            } else if staged && old {
                std::fs::remove_file(entry.path())
                    .map_err(|error| Error::Store(format!("{}: {error}", entry.path().display())))?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}
