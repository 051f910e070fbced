//! `switchmaster top`: what the admin address shows, live on a terminal.
//!
//! It draws and decides nothing. Everything fits 80 by 24; what does not fit is cut.

use std::fmt;
use std::io::{self, IsTerminal};
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Sparkline};

use crate::duration::rounded as millis;
use crate::remote::{self, Remote};
use crate::size::rounded as bytes;
use crate::status::{PastFailover, Recent, State, View};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Why it ended.
#[derive(Debug)]
pub enum Error {
    /// Standard output or input is no terminal.
    NoTerminal,
    /// The switchmaster could not be asked.
    Remote(remote::Error),
    /// The terminal failed.
    Terminal(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoTerminal => f.write_str(
                "top draws on a terminal, and this is none: `switchmaster status` prints, `--json` for programs",
            ),
            Error::Remote(error) => error.fmt(f),
            Error::Terminal(error) => write!(f, "the terminal failed: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// Draws until `q`, Esc or Ctrl-C. A switchmaster that does not answer at the start is an error; later it is waited for.
pub async fn run(remote: Remote) -> Result<(), Error> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Error::NoTerminal);
    }
    let mut recent = remote.recent().await.map_err(Error::Remote)?;
    let mut trouble = None;
    let mut terminal = ratatui::try_init().map_err(Error::Terminal)?;
    let ended = loop {
        if let Err(error) = terminal.draw(|frame| draw(frame, &recent, trouble.as_deref())) {
            break Err(error);
        }
        match is_over(LOOK) {
            Ok(false) => {}
            Ok(true) => break Ok(()),
            Err(error) => break Err(error),
        }
        match remote.recent().await {
            Ok(found) => (recent, trouble) = (found, None),
            Err(error) => trouble = Some(error.to_string()),
        }
    };
    ratatui::restore();
    ended.map_err(Error::Terminal)
}

/// Waits for so long at most; true when the user wants to leave. Another size of the terminal is drawn at once.
fn is_over(limit: Duration) -> io::Result<bool> {
    if !event::poll(limit)? {
        return Ok(false);
    }
    let Event::Key(key) = event::read()? else { return Ok(false) };
    let is_interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    Ok(key.kind == KeyEventKind::Press && (is_interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)))
}

fn draw(frame: &mut Frame, recent: &Recent, trouble: Option<&str>) {
    let view = &recent.view;
    let nodes = (1 + view.replicas.len()).max(view.sentinels.len()).clamp(3, 8) as u16;
    let rows = [
        Constraint::Length(2),
        Constraint::Length(nodes + 1),
        Constraint::Length(5),
        Constraint::Length(3),
        Constraint::Min(2),
    ];
    let [head, topology, charts, numbers, failovers] = Layout::vertical(rows).areas(frame.area());
    frame.render_widget(Paragraph::new(title(view, trouble)), head);
    let [left, right] = Layout::horizontal([Constraint::Percentage(55), Constraint::Percentage(45)]).areas(topology);
    frame.render_widget(Paragraph::new(nodes_of(view)).block(block("nodes")), left);
    let agreement = format!("sentinels: {} of {} agree", view.agreement.agreeing, view.agreement.known);
    frame.render_widget(Paragraph::new(sentinels(view)).block(block(&agreement)), right);
    draw_charts(frame, charts, recent);
    frame.render_widget(Paragraph::new(sessions(view)).block(block("sessions")), numbers);
    let lines: Vec<Line> = recent.failovers.iter().map(failover).collect();
    let lines = if lines.is_empty() { vec![Line::from("none since the start").dim()] } else { lines };
    frame.render_widget(Paragraph::new(lines).block(block("failovers  (q to leave)")), failovers);
}

fn block(title: &str) -> Block<'_> {
    Block::new().borders(Borders::TOP).border_style(Style::new().dim()).title(title)
}

fn title(view: &View, trouble: Option<&str>) -> Vec<Line<'static>> {
    let state = view.readiness.state;
    let colour = match state {
        State::Ok => Color::Green,
        State::Failover | State::Degraded => Color::Yellow,
        State::Down => Color::Red,
    };
    let since = view.since_ms.map_or(String::new(), |since| format!(" for {}", millis(since)));
    let outage = view.outage_ms.filter(|_| view.phase != "paused");
    let outage = outage.map_or(String::new(), |outage| format!(", outage for {}", millis(outage)));
    let first = Line::from(vec![
        Span::from(format!("switchmaster {} ", view.master_name)).bold(),
        Span::from(state.name()).fg(colour).bold(),
        Span::from(format!("  {}{since}{outage}", view.phase)),
    ]);
    let second = match (trouble, view.warnings.first()) {
        (Some(trouble), _) => Line::from(trouble.to_owned()).red(),
        (None, Some(warning)) if state == State::Ok => Line::from(format!("warning: {warning}")).yellow(),
        _ => Line::from(view.readiness.why.clone()).dim(),
    };
    vec![first, second]
}

fn nodes_of(view: &View) -> Vec<Line<'static>> {
    let master = match &view.master {
        Some(master) => {
            let provisional = if master.provisional { " provisional" } else { "" };
            Line::from(format!("{:<22} master, epoch {}{provisional}", master.addr, master.epoch)).bold()
        }
        None => Line::from("no master").red().bold(),
    };
    let replica = |replica: &crate::status::ReplicaView| {
        let lag = replica.lag_bytes.map_or("lag unknown".into(), |lag| format!("{} behind", bytes(lag)));
        let colour = if replica.link == "up" { Color::Green } else { Color::Red };
        Line::from(vec![
            Span::from(format!("{:<22} ", replica.addr)),
            Span::from(replica.link.clone()).fg(colour),
            Span::from(format!(", {lag}")),
        ])
    };
    std::iter::once(master).chain(view.replicas.iter().map(replica)).collect()
}

fn sentinels(view: &View) -> Vec<Line<'static>> {
    let line = |sentinel: &crate::status::SentinelView| {
        let (text, colour) = match (&sentinel.names, &sentinel.error) {
            _ if sentinel.connected && sentinel.names_master(view.master.as_ref()) => {
                ("agrees".to_owned(), Color::Green)
            }
            (Some(names), _) if sentinel.connected => (names.clone(), Color::Yellow),
            (_, error) => (error.clone().unwrap_or_else(|| "not connected".into()), Color::Red),
        };
        let (down, colour) = if sentinel.master_down { (", down", Color::Yellow) } else { ("", colour) };
        Line::from(vec![Span::from(format!("{:<22}", sentinel.addr)), Span::from(text + down).fg(colour)])
    };
    view.sentinels.iter().map(line).collect()
}

fn draw_charts(frame: &mut Frame, area: Rect, recent: &Recent) {
    let thirds = [Constraint::Ratio(1, 3); 3];
    let areas: [Rect; 3] = Layout::horizontal(thirds).spacing(1).areas(area);
    let last = |width: u16| recent.samples.iter().skip(recent.samples.len().saturating_sub(width as usize));
    let traffic = &recent.view.traffic;
    let answer = recent.view.answer_ms.map_or("–".into(), |answer| format!("{answer:.1} ms"));
    let outage = recent.view.outage_ms.map_or("none".into(), millis);
    let titles = [
        format!("{:.0} requests/s", traffic.requests_per_second),
        format!("answer {answer}"),
        format!("pause {outage}"),
    ];
    let pick: [fn(&crate::status::Sample) -> u64; 3] =
        [|sample| sample.1 as u64, |sample| sample.5.map_or(0, |answer| (answer * 1000.0) as u64), |sample| sample.6];
    for ((area, title), pick) in areas.into_iter().zip(titles).zip(pick) {
        let values: Vec<u64> = last(area.width).map(pick).collect();
        frame.render_widget(Sparkline::default().data(values).block(block(&title)).fg(Color::Blue), area);
    }
}

fn sessions(view: &View) -> Vec<Line<'static>> {
    let traffic = &view.traffic;
    let held = Span::from(format!("{} held", traffic.held_sessions));
    let lost = Span::from(format!("{} replies lost", traffic.lost));
    let rate = bytes(traffic.bytes_per_second as u64);
    vec![
        Line::from(vec![
            Span::from(format!("{} open, ", traffic.sessions)).bold(),
            if traffic.held_sessions > 0 { held.yellow().bold() } else { held },
            Span::from(format!(", {} accepted, {} refused   {rate}/s", traffic.accepted, traffic.refused)),
        ]),
        Line::from(format!("{} moved, {} requests sent again, ", traffic.moved, traffic.replayed))
            + if traffic.lost > 0 { lost.red() } else { lost },
    ]
}

/// In one number.
fn age(ms: u64) -> String {
    match ms / 1000 {
        seconds @ ..60 => format!("{seconds} s"),
        seconds @ ..3600 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

fn failover(past: &PastFailover) -> Line<'static> {
    let report = &past.report;
    // The promotion is a part of the hold, and a line is short.
    let phases = report.phases.iter().filter(|(phase, _)| phase != "promotion");
    let phases: Vec<String> = phases.map(|(phase, duration)| format!("{phase} {duration:.0}")).collect();
    let ago = format!("{:>6} ago  ", age(report.ago_ms));
    let phases = format!("  {} ms", phases.join(" "));
    Line::from(vec![
        Span::from(ago).dim(),
        Span::from(report.kind.clone()).bold(),
        Span::from(format!(" to {}", report.to)),
        Span::from(phases).dim(),
    ])
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::status::{Agreement, FailoverView, MasterView, ReplicaView, SentinelView};

    fn screen(recent: &Recent, trouble: Option<&str>) -> String {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(frame, recent, trouble)).unwrap();
        let cells = terminal.backend().buffer().content().chunks(80);
        cells.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>() + "\n").collect()
    }

    fn recent() -> Recent {
        let sentinel = |n: u16| SentinelView {
            addr: format!("127.0.0.1:{n}"),
            connected: true,
            epoch: Some(7),
            names: Some("127.0.0.1:6379".into()),
            ..SentinelView::default()
        };
        let report = FailoverView {
            kind: "crash".into(),
            to: "127.0.0.1:6379".into(),
            phases: vec![("hold".into(), 812.0)],
            ..FailoverView::default()
        };
        let master = MasterView { addr: "127.0.0.1:6379".into(), epoch: 7, ..MasterView::default() };
        let view = View {
            master_name: "mymaster".into(),
            phase: "stable".into(),
            master: Some(master),
            replicas: vec![ReplicaView {
                addr: "127.0.0.1:6380".into(),
                link: "down".into(),
                ..ReplicaView::default()
            }],
            sentinels: vec![sentinel(1), sentinel(2), sentinel(3)],
            agreement: Agreement { agreeing: 3, known: 3, quorum: 2 },
            ..View::default()
        };
        Recent {
            view,
            samples: vec![(1, 5.0, 1.0, 2, 0, Some(0.2), 0); 100],
            failovers: vec![PastFailover { at_ms: 1, report }],
        }
    }

    #[test]
    fn everything_is_on_a_screen_of_80_by_24() {
        let shown = screen(&recent(), None);
        for text in [
            "switchmaster mymaster",
            "127.0.0.1:6379         master, epoch 7",
            "127.0.0.1:6380         down, lag unknown",
            "3 of 3 agree",
            "127.0.0.1:3           agrees",
            "requests/s",
            "0 open, 0 held",
            "crash to 127.0.0.1:6379  hold 812 ms",
        ] {
            assert!(shown.contains(text), "{text:?} is not in\n{shown}");
        }
    }

    #[test]
    fn what_is_unknown_or_in_trouble_is_said() {
        let shown = screen(&Recent::default(), Some("nobody listens"));
        assert!(shown.contains("no master") && shown.contains("nobody listens"), "{shown}");
        assert!(shown.contains("none since the start"), "{shown}");
    }
}
