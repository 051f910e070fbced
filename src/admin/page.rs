//! The status page: one self-contained HTML document that reloads itself.
//!
//! No script, no external asset, nothing that gives a command. Every text from outside passes through [`Esc`].

use std::fmt::{self, Write};

use crate::duration::rounded as millis;
use crate::size::rounded as bytes;
use crate::status::{State, View};

const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"2\">\
<meta name=\"viewport\" content=\"width=device-width\"><title>switchmaster</title><style>\
:root{color-scheme:light dark}body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.3rem}h2{font-size:1rem;margin:1.6rem 0 .3rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #8884;font-variant-numeric:tabular-nums}\
th{font-weight:600;opacity:.7}.b{padding:.1rem .5rem;border-radius:.3rem;color:#fff;background:#c0392b}\
.ok{background:#27803b}.failover,.degraded{background:#b9770e}.warn{color:#c0392b}</style>";

/// The page.
pub fn render(view: &View) -> String {
    let mut html = String::from(HEAD);
    // Writing to a String cannot fail.
    let _ = write(&mut html, view);
    html
}

fn write(html: &mut String, view: &View) -> fmt::Result {
    let state = view.readiness.state;
    write!(
        html,
        "<h1>switchmaster {} <span class=\"b {}\">{}</span></h1>",
        Esc(&view.master_name),
        state.name(),
        state.name()
    )?;
    if state != State::Ok {
        write!(html, "<p>{}</p>", Esc(&view.readiness.why))?;
    }
    for warning in &view.warnings {
        write!(html, "<p class=\"warn\">⚠ {}</p>", Esc(warning))?;
    }

    write!(html, "<table><tr><th>phase<td>{}", Esc(&view.phase))?;
    if let Some(outage) = view.outage_ms {
        write!(html, ", outage for {}", millis(outage))?;
    }
    if !view.reason.is_empty() {
        write!(html, ": {}", Esc(&view.reason))?;
    }
    html.push_str("<tr><th>master<td>");
    match &view.master {
        Some(master) => {
            let provisional = if master.provisional { ", provisional" } else { "" };
            write!(html, "{} epoch {}{provisional}", Esc(&master.addr), master.epoch)?;
            if let Some(age) = view.confirmed_ago_ms {
                write!(html, ", confirmed {} ago", millis(age))?;
            }
        }
        None => html.push_str("none"),
    }
    let (traffic, agreement) = (&view.traffic, &view.agreement);
    write!(
        html,
        "<tr><th>sessions<td>{} open, {} held, {} moved",
        traffic.sessions, traffic.held_sessions, traffic.moved
    )?;
    let (requests, rate) = (traffic.requests_per_second, bytes(traffic.bytes_per_second as u64));
    write!(html, "<tr><th>traffic<td>{requests:.0} requests/s, {rate}/s")?;
    let (agreeing, known, quorum) = (agreement.agreeing, agreement.known, agreement.quorum);
    write!(html, "<tr><th>agreement<td>{agreeing} of {known} Sentinels, quorum {quorum}")?;
    if let Some(failover) = &view.last_failover {
        let (kind, from, to) = (Esc(&failover.kind), Esc(&failover.from), Esc(&failover.to));
        write!(html, "<tr><th>last failover<td>{kind}, {from} → {to}, {} ago", millis(failover.ago_ms))?;
        for (phase, duration) in &failover.phases {
            write!(html, "; {} {duration:.0} ms", Esc(phase))?;
        }
    }
    write!(
        html,
        "<tr><th>process<td>version {}, pid {}, up {}</table>",
        Esc(&view.version),
        view.pid,
        millis(view.uptime_ms)
    )?;

    html.push_str("<h2>Replicas</h2><table><tr><th>address<th>offset<th>behind<th>link");
    for replica in &view.replicas {
        let offset = replica.offset.map_or("?".into(), |offset| offset.to_string());
        let behind = replica.lag_bytes.map_or("?".into(), bytes);
        write!(html, "<tr><td>{}<td>{offset}<td>{behind}<td>{}", Esc(&replica.addr), Esc(&replica.link))?;
    }
    html.push_str("</table><h2>Sentinels</h2><table><tr><th>address<th>connected<th>answered<th>epoch<th>names");
    for sentinel in &view.sentinels {
        let connected = if sentinel.connected { "yes" } else { sentinel.error.as_deref().unwrap_or("no") };
        let answered = sentinel.answer_ago_ms.map_or("never".into(), |age| format!("{} ago", millis(age)));
        let epoch = sentinel.epoch.map_or("?".into(), |epoch| epoch.to_string());
        let (addr, names) = (Esc(&sentinel.addr), Esc(sentinel.names.as_deref().unwrap_or("?")));
        write!(html, "<tr><td>{addr}<td>{}<td>{answered}<td>{epoch}<td>{names}", Esc(connected))?;
    }
    html.push_str("</table></html>");
    Ok(())
}

/// Text inside HTML.
struct Esc<'a>(&'a str);

impl fmt::Display for Esc<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for symbol in self.0.chars() {
            match symbol {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sentinel_says_cannot_become_markup() {
        let view = View { warnings: vec!["<script>alert('x')</script>".into()], ..View::default() };
        let html = render(&view);
        assert!(!html.contains("<script"));
        assert!(html.contains("&lt;script&gt;"));
    }
}
