//! Which Sentinels are believed: one set that knows each other, anchored in the configured list.
//!
//! A pure count of who lists whom. Nothing here asks or waits, and nothing weighs what they say of the master: whoever
//! is outside the set has no say at all, however many there are and whatever epoch they claim.

use std::collections::{BTreeMap, BTreeSet};

use crate::address::HostPort;
use crate::sentinel::client::AddressMap;
use crate::sentinel::report::{Peer, SentinelAnswer};

/// A Sentinel as it is dialled.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// Where.
    pub at: &'a HostPort,
    /// The operator named it; the others were learnt from Sentinels.
    pub configured: bool,
    /// Its run id, as far as it is known: from itself, from a peer, or from an earlier run.
    pub run_id: Option<&'a str>,
    /// Its last answer, while that is fresh.
    pub answer: Option<&'a SentinelAnswer>,
}

/// What distinguishes one Sentinel from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Id {
    RunId(String),
    /// Where MYID is not permitted.
    At(HostPort),
}

/// The set that is believed.
#[derive(Debug, Default)]
pub struct Electorate {
    members: BTreeSet<Id>,
    known: usize,
    anchored: bool,
    holds_configured: bool,
    /// Every address of a member.
    voices: BTreeSet<HostPort>,
    /// One address of each member that answers.
    say: BTreeSet<HostPort>,
    strangers: Vec<Peer>,
    rivals: Vec<Vec<HostPort>>,
}

/// One Sentinel with all its addresses.
struct Vertex<'a> {
    id: Id,
    listed: Vec<Listed<'a>>,
}

/// Sentinels that list each other.
struct Group {
    answering: BTreeSet<Id>,
    /// Listed by at least half of those that answer, and not of the group themselves.
    others: BTreeMap<Id, Peer>,
    /// Of `others`, those that more than half list and nobody dials yet.
    strangers: Vec<Peer>,
    known: usize,
}

impl Vertex<'_> {
    fn answers(&self) -> impl Iterator<Item = &SentinelAnswer> {
        self.listed.iter().filter_map(|listed| listed.answer)
    }

    fn is_configured(&self) -> bool {
        self.listed.iter().any(|listed| listed.configured)
    }

    /// It monitors this name: without a claim and a list it is no Sentinel of this master.
    fn takes_part(&self) -> bool {
        self.answers().any(|answer| answer.claim.is_some() || answer.peers.is_some())
    }

    fn peers(&self) -> Option<impl Iterator<Item = &Peer>> {
        let known = self.answers().any(|answer| answer.peers.is_some());
        known.then(|| self.answers().flat_map(|answer| answer.peers.iter().flatten()))
    }

    /// `peer` is this one: by its run id, and by its address where there is none.
    fn is(&self, peer: &Peer, map: &AddressMap) -> bool {
        if let Id::RunId(id) = &self.id
            && !peer.run_id.is_empty()
            && (*id == peer.run_id || self.takes_part())
        {
            return *id == peer.run_id;
        }
        let dialled = map.map(&peer.addr);
        self.listed
            .iter()
            .any(|listed| *listed.at == peer.addr || map.map(listed.at) == dialled || *listed.at == dialled)
    }

    /// Whether it lists `other`; `None` when it may not say.
    fn lists(&self, other: &Vertex, map: &AddressMap) -> Option<bool> {
        self.peers().map(|mut peers| peers.any(|peer| other.is(peer, map)))
    }

    fn is_linked_to(&self, other: &Vertex, map: &AddressMap) -> bool {
        match (self.lists(other, map), other.lists(self, map)) {
            (Some(one), Some(two)) => one && two,
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => self.is_configured() && other.is_configured(),
        }
    }

    /// The address that speaks for it; none when its addresses name different masters.
    fn representative(&self) -> Option<&HostPort> {
        let answering = || self.listed.iter().filter(|listed| listed.answer.is_some());
        let mut named = answering().filter_map(|listed| Some(listed.answer?.claim.as_ref()?.addr));
        let first = named.next();
        if named.any(|addr| Some(addr) != first) {
            return None;
        }
        answering().find(|listed| listed.configured).or(answering().next()).map(|listed| listed.at)
    }
}

impl Group {
    /// How many of these answer in it.
    fn answering_of(&self, vertices: &[&Vertex]) -> usize {
        vertices.iter().filter(|vertex| self.answering.contains(&vertex.id)).count()
    }

    fn lists(&self, vertex: &Vertex, map: &AddressMap) -> bool {
        self.others.values().any(|peer| vertex.is(peer, map))
    }

    /// The addresses of those that name a master, when one of them is configured.
    fn claimants(&self, vertices: &[Vertex]) -> Option<Vec<HostPort>> {
        let of_group = vertices.iter().filter(|vertex| self.answering.contains(&vertex.id));
        let claims = of_group.filter(|vertex| vertex.answers().any(|answer| answer.claim.is_some()));
        let listed: Vec<_> = claims.flat_map(|vertex| &vertex.listed).collect();
        let configured = listed.iter().any(|listed| listed.configured);
        configured.then(|| listed.into_iter().map(|listed| listed.at.clone()).collect())
    }
}

/// A silent one counts for the one group that lists it.
fn is_silent_one_of(vertex: &Vertex, group: &Group, groups: &[Group], map: &AddressMap) -> bool {
    !vertex.takes_part()
        && vertex.answers().next().is_none()
        && group.lists(vertex, map)
        && groups.iter().filter(|other| other.lists(vertex, map)).count() == 1
}

/// The one group with a Sentinel that an earlier run believed.
fn recalled(groups: &[Group], remembered: &BTreeSet<String>) -> Option<usize> {
    let is_known = |id: &Id| matches!(id, Id::RunId(id) if remembered.contains(id));
    let mut recalled = (0..groups.len()).filter(|index| groups[*index].answering.iter().any(is_known));
    recalled.next().filter(|_| recalled.next().is_none())
}

impl Electorate {
    /// Counts anew. `settled`: every configured Sentinel has had its chance to answer. `remembered`: the run ids of an
    /// earlier run's set.
    ///
    /// The set is, in this order: the group in which more than half of the present set answer; the group in which more
    /// than half of the configured list answer; and until there was such a one, once `settled`, the group that holds more
    /// than half of the configured list together with silent ones that it lists (and no other group does), or the one
    /// group with a remembered Sentinel. When there is none, the present set stays what it is.
    pub fn update(&mut self, listed: &[Listed], map: &AddressMap, settled: bool, remembered: &BTreeSet<String>) {
        let vertices = vertices(listed);
        let groups = groups(&vertices, map);
        let configured: Vec<&Vertex> = vertices.iter().filter(|vertex| vertex.is_configured()).collect();
        let holds = |group: &Group| {
            let silent = configured.iter().filter(|vertex| is_silent_one_of(vertex, group, &groups, map)).count();
            (group.answering_of(&configured) + silent) * 2 > configured.len()
        };
        let anchored = self.anchored_in(&groups, &configured);
        let chosen = anchored.or_else(|| {
            let held = groups.iter().position(&holds).or_else(|| recalled(&groups, remembered));
            held.filter(|_| !self.anchored && settled)
        });
        match chosen.map(|index| &groups[index]) {
            Some(group) => {
                self.anchored = anchored.is_some();
                self.holds_configured = self.anchored || holds(group);
                self.members = group.answering.iter().chain(group.others.keys()).cloned().collect();
                // What is not anchored can have no majority.
                self.known = if self.anchored { group.known } else { group.known.max(configured.len()) };
                self.strangers = if self.anchored { group.strangers.clone() } else { Vec::new() };
            }
            None => self.strangers.clear(),
        }
        let members = || vertices.iter().filter(|vertex| self.members.contains(&vertex.id));
        self.voices = members().flat_map(|vertex| &vertex.listed).map(|listed| listed.at.clone()).collect();
        self.say = members().filter_map(Vertex::representative).cloned().collect();
        let is_ours = |index: usize, group: &Group| match chosen {
            Some(chosen) => index == chosen,
            None => group.answering.iter().any(|id| self.members.contains(id)),
        };
        let rivals = groups.iter().enumerate().filter(|(index, group)| !is_ours(*index, group));
        self.rivals = rivals.filter_map(|(_, group)| group.claimants(&vertices)).collect();
    }

    /// The group in which more than half of the present set answer, or more than half of the configured list.
    fn anchored_in(&self, groups: &[Group], configured: &[&Vertex]) -> Option<usize> {
        let present = |group: &Group| group.answering.intersection(&self.members).count();
        let continued = groups.iter().position(|group| present(group) * 2 > self.members.len());
        let anchor = || groups.iter().position(|group| group.answering_of(configured) * 2 > configured.len());
        continued.filter(|_| self.anchored).or_else(anchor)
    }

    /// There is a set.
    pub fn is_established(&self) -> bool {
        !self.members.is_empty()
    }

    /// More than half of the configured list answered as one set, or more than half of such a set did later.
    pub fn is_anchored(&self) -> bool {
        self.anchored
    }

    /// More than half of the configured list belong to it, some perhaps only by being listed.
    pub fn holds_configured(&self) -> bool {
        self.holds_configured
    }

    /// How many Sentinels it has, with those that do not answer: a majority is of these.
    pub fn known(&self) -> usize {
        self.known
    }

    /// `at` is an address of a member: its events count.
    pub fn has_voice(&self, at: &HostPort) -> bool {
        self.voices.contains(at)
    }

    /// The answer from `at` counts: one address speaks for each member that answers.
    pub fn has_say(&self, at: &HostPort) -> bool {
        self.say.contains(at)
    }

    /// Members that nobody dials yet, each listed by more than half of those that answer.
    pub fn strangers(&self) -> &[Peer] {
        &self.strangers
    }

    /// The other sets that answer under this name through a configured Sentinel; without a set of ours, all of them.
    pub fn rivals(&self) -> &[Vec<HostPort>] {
        &self.rivals
    }

    /// Its addresses.
    pub fn voices(&self) -> impl Iterator<Item = &HostPort> {
        self.voices.iter()
    }

    /// The run ids of its members.
    pub fn run_ids(&self) -> impl Iterator<Item = &str> {
        self.members.iter().filter_map(|id| match id {
            Id::RunId(id) => Some(id.as_str()),
            Id::At(_) => None,
        })
    }
}

fn vertices<'a>(listed: &[Listed<'a>]) -> Vec<Vertex<'a>> {
    let mut by_id: BTreeMap<Id, Vec<Listed<'a>>> = BTreeMap::new();
    for one in listed {
        let id = one.run_id.map_or_else(|| Id::At(one.at.clone()), |id| Id::RunId(id.to_owned()));
        by_id.entry(id).or_default().push(*one);
    }
    by_id.into_iter().map(|(id, listed)| Vertex { id, listed }).collect()
}

fn groups(vertices: &[Vertex], map: &AddressMap) -> Vec<Group> {
    let mut left: Vec<&Vertex> = vertices.iter().filter(|vertex| vertex.takes_part()).collect();
    let mut groups = Vec::new();
    while let Some(first) = left.pop() {
        let mut members = vec![first];
        let mut next = 0;
        while let Some(member) = members.get(next).copied() {
            next += 1;
            let (linked, rest) = left.into_iter().partition(|other| member.is_linked_to(other, map));
            members.extend::<Vec<_>>(linked);
            left = rest;
        }
        groups.push(group(&members, vertices, map));
    }
    groups
}

fn group(members: &[&Vertex], vertices: &[Vertex], map: &AddressMap) -> Group {
    let mut listed: BTreeMap<Id, (Peer, usize)> = BTreeMap::new();
    let mut speakers = 0;
    for member in members {
        let Some(peers) = member.peers() else { continue };
        speakers += 1;
        let mut seen = BTreeSet::new();
        for peer in peers.filter(|peer| !members.iter().any(|member| member.is(peer, map))) {
            let id = match vertices.iter().find(|vertex| vertex.is(peer, map)) {
                _ if !peer.run_id.is_empty() => Id::RunId(peer.run_id.clone()),
                Some(vertex) => vertex.id.clone(),
                None => Id::At(peer.addr.clone()),
            };
            if seen.insert(id.clone()) {
                listed.entry(id).or_insert_with(|| (peer.clone(), 0)).1 += 1;
            }
        }
    }
    let is_dialled = |peer: &Peer| vertices.iter().any(|vertex| vertex.is(peer, map));
    let strangers = listed.values().filter(|(peer, times)| times * 2 > speakers && !is_dialled(peer));
    let strangers = strangers.map(|(peer, _)| peer.clone()).collect();
    listed.retain(|_, (_, times)| *times * 2 >= speakers);
    let mute = members.iter().filter(|member| member.peers().is_none());
    let claims = mute.flat_map(|member| member.answers()).filter_map(|answer| answer.claim.as_ref());
    let claimed = claims.map(|claim| claim.other_sentinels + 1).max().unwrap_or_default();
    Group {
        answering: members.iter().map(|member| member.id.clone()).collect(),
        known: (members.len() + listed.len()).max(usize::try_from(claimed).unwrap_or_default()),
        others: listed.into_iter().map(|(id, (peer, _))| (id, peer)).collect(),
        strangers,
    }
}

/// Of `answers`, asked once, those that are believed, and of how many Sentinels a majority is; `None` when no set holds
/// more than half of the `configured` list.
pub fn among(
    configured: &[HostPort],
    mut answers: Vec<(HostPort, SentinelAnswer)>,
    map: &AddressMap,
) -> Option<(Vec<(HostPort, SentinelAnswer)>, usize)> {
    let silent = configured.iter().filter(|at| answers.iter().all(|(other, _)| other != *at));
    let silent = silent.map(|at| Listed { at, configured: true, run_id: None, answer: None });
    let answering = answers.iter().map(|(at, answer)| Listed {
        at,
        configured: configured.contains(at),
        run_id: answer.myid.as_deref(),
        answer: Some(answer),
    });
    let mut electorate = Electorate::default();
    electorate.update(&answering.chain(silent).collect::<Vec<_>>(), map, true, &BTreeSet::new());
    answers.retain(|(at, _)| electorate.has_say(at));
    electorate.is_established().then_some((answers, electorate.known))
}

/// What the Sentinels say when no name is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// Too few have answered.
    Unknown,
    /// Most monitor nothing.
    Nothing,
    /// Most monitor this one alone.
    One(String),
    /// Most monitor several; sorted.
    Several(Vec<String>),
}

/// The name that more than half of the `configured` Sentinels monitor alone; once `settled`, more than half of those
/// that answer. One Sentinel alone neither chooses the name nor ends the process.
pub fn name(monitored: &BTreeMap<HostPort, Vec<String>>, configured: usize, settled: bool) -> Name {
    let wanted = if settled { monitored.len().min(configured) } else { configured };
    let mut counts: BTreeMap<&Vec<String>, usize> = BTreeMap::new();
    monitored.values().for_each(|names| *counts.entry(names).or_default() += 1);
    match counts.into_iter().find(|(_, count)| count * 2 > wanted).map(|(names, _)| &names[..]) {
        None => Name::Unknown,
        Some([]) => Name::Nothing,
        Some([one]) => Name::One(one.clone()),
        Some(several) => Name::Several(several.to_vec()),
    }
}

#[cfg(test)]
mod tests;
