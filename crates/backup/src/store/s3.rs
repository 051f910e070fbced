//! The client of an S3-compatible service, put together from the configuration.

use std::net::IpAddr;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use super::Limits;
use crate::Error;
use crate::config::{BackupConfig, Location};

/// The client, what its own HTTP client was made with, and the words for the place: the location with the service's
/// address.
pub(super) fn build(
    config: &BackupConfig,
    bucket: &str,
    location: &Location,
    limits: &Limits,
) -> Result<(AmazonS3, ClientOptions, String), Error> {
    let endpoint = config.s3_endpoint.as_deref();
    let plain = endpoint.is_some_and(|url| url.starts_with("http://"));
    if let Some(url) = endpoint.filter(|_| plain).filter(|url| !is_loopback(host(url))) {
        tracing::warn!("backup_s3_endpoint is {url}, without TLS: whoever is on the way can read what is sent");
    }
    let mut builder = match (&config.s3_access_key_id, &config.s3_secret_access_key, endpoint) {
        (Some(id), Some(secret), _) => {
            let builder = AmazonS3Builder::new().with_access_key_id(id).with_secret_access_key(secret.reveal());
            match &config.s3_session_token {
                Some(token) => builder.with_token(token.reveal()),
                None => builder,
            }
        }
        // At Amazon a host may have a role: the client finds it by Amazon's own variables and addresses.
        (None, None, None) => AmazonS3Builder::from_env(),
        (None, None, Some(_)) => {
            return Err(Error::Usage(format!(
                "{location} needs an access key: set backup_s3_access_key_id and backup_s3_secret_access_key_file (or \
                 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
            )));
        }
        (id, ..) => {
            let (there, missing) = ("backup_s3_access_key_id", "backup_s3_secret_access_key");
            let (there, missing) = if id.is_some() { (there, missing) } else { (missing, there) };
            return Err(Error::Usage(format!("{there} is set, but {missing} is not: set both")));
        }
    };
    let options = client_options(limits, plain);
    builder = builder
        .with_bucket_name(bucket)
        .with_region(&config.s3_region)
        .with_client_options(options.clone())
        .with_retry(RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(5),
                base: 2.0,
            },
            max_retries: limits.retries,
            retry_timeout: limits.stall,
        })
        // One DELETE for each object: the bulk request is an extension that needs a checksum not every service takes.
        .with_disable_bulk_delete(true);
    let place = match endpoint {
        None => {
            builder = builder.with_virtual_hosted_style_request(!config.s3_path_style);
            format!("{location} at Amazon {}", config.s3_region)
        }
        Some(url) if config.s3_path_style || host(url).parse::<IpAddr>().is_ok() || host(url) == "localhost" => {
            builder = builder.with_endpoint(url).with_virtual_hosted_style_request(false);
            format!("{location} at {url}")
        }
        Some(url) => {
            // The client wants the bucket's own address here.
            let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
            builder =
                builder.with_endpoint(format!("{scheme}://{bucket}.{rest}")).with_virtual_hosted_style_request(true);
            format!("{location} at {url}")
        }
    };
    let client = builder.build().map_err(|error| Error::Usage(format!("{place}: {error}")))?;
    Ok((client, options, place))
}

/// Without the client's own time limits: the store has one for each step, which knows what was going on.
fn client_options(limits: &Limits, allow_http: bool) -> ClientOptions {
    ClientOptions::new()
        .with_allow_http(allow_http)
        .with_timeout_disabled()
        .with_connect_timeout((limits.stall / 2).min(Duration::from_secs(10)))
}

/// The host of a URL, without the brackets of an IPv6 address.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    match rest.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => rest.split([':', '/']).next().unwrap_or_default(),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn the_bucket_stands_where_the_service_wants_it() {
        for (endpoint, path_style, wanted) in [
            (Some("https://eu.example.com"), false, "https://bucket.eu.example.com/k"),
            (Some("https://eu.example.com:9000"), true, "https://eu.example.com:9000/bucket/k"),
            (Some("http://127.0.0.1:9000"), false, "http://127.0.0.1:9000/bucket/k"),
            (Some("http://[::1]:9000"), false, "http://[::1]:9000/bucket/k"),
            (None, false, "https://bucket.s3.eu-west-1.amazonaws.com/k"),
            (None, true, "https://s3.eu-west-1.amazonaws.com/bucket/k"),
        ] {
            let config = BackupConfig {
                s3_endpoint: endpoint.map(str::to_owned),
                s3_path_style: path_style,
                s3_region: "eu-west-1".to_owned(),
                s3_access_key_id: Some("id".to_owned()),
                s3_secret_access_key: Some(Secret::new("secret")),
                ..BackupConfig::default()
            };
            let location = Location::parse("s3://bucket/prefix").unwrap();
            let (client, ..) = build(&config, "bucket", &location, &Limits::default()).unwrap();
            let shown = format!("{client:?}");
            let wanted = wanted.strip_suffix("/k").unwrap();
            assert!(shown.contains(&format!("bucket_endpoint: \"{wanted}\"")), "{wanted} in {shown}");
        }
    }

    #[test]
    fn half_an_access_key_is_refused() {
        let location = Location::parse("s3://bucket").unwrap();
        let half = BackupConfig { s3_access_key_id: Some("id".to_owned()), ..BackupConfig::default() };
        let told = build(&half, "bucket", &location, &Limits::default()).unwrap_err().to_string();
        assert!(told.contains("backup_s3_secret_access_key is not"), "{told}");
        let none = BackupConfig { s3_endpoint: Some("https://example.com".to_owned()), ..BackupConfig::default() };
        let told = build(&none, "bucket", &location, &Limits::default()).unwrap_err();
        assert_eq!(told.exit_code(), 64);
    }
}
