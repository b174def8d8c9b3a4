//! vici, the protocol by which charon is driven (its README in strongSwan's `src/libcharon/plugins/vici`).
//!
//! ```text
//!   packet   length:32 | type:8 | name (some types) | elements
//!   element  section start, section end, key = value, list start, list item, list end
//! ```
//!
//! Speaking it ourselves saves a process per command and the guessing that `swanctl --raw` output needs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::ensure;
use crate::outcome::{Context, Result, Stop};

/// A message, or a part of one, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section(pub Vec<(String, Item)>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Value(String),
    List(Vec<String>),
    Section(Section),
}

impl Section {
    pub fn new() -> Section {
        Section::default()
    }

    pub fn with(mut self, key: &str, value: impl Into<String>) -> Section {
        self.0.push((key.to_owned(), Item::Value(value.into())));
        self
    }

    pub fn with_list<'a>(mut self, key: &str, values: impl IntoIterator<Item = &'a str>) -> Section {
        self.0.push((key.to_owned(), Item::List(values.into_iter().map(str::to_owned).collect())));
        self
    }

    pub fn with_section(mut self, key: &str, section: Section) -> Section {
        self.0.push((key.to_owned(), Item::Section(section)));
        self
    }

    pub fn get(&self, key: &str) -> Option<&Item> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, item)| item)
    }

    /// The text of a value; empty when there is none.
    pub fn text(&self, key: &str) -> &str {
        match self.get(key) {
            Some(Item::Value(text)) => text,
            _ => "",
        }
    }

    pub fn list(&self, key: &str) -> &[String] {
        match self.get(key) {
            Some(Item::List(items)) => items,
            _ => &[],
        }
    }

    pub fn section(&self, key: &str) -> Option<&Section> {
        match self.get(key) {
            Some(Item::Section(section)) => Some(section),
            _ => None,
        }
    }

    /// The sections in it, with their names.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.0.iter().filter_map(|(name, item)| match item {
            Item::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }
}

/// One connection to a charon.
#[derive(Debug)]
pub struct Vici {
    stream: UnixStream,
}

const REQUEST: u8 = 0;
const RESPONSE: u8 = 1;
const EVENT_REGISTER: u8 = 3;
const EVENT_UNREGISTER: u8 = 4;
const EVENT_CONFIRM: u8 = 5;
const EVENT: u8 = 7;

/// No answer of charon's is larger; a length beyond it means that the stream is broken.
const PACKET_MAX: usize = 16 << 20;

impl Vici {
    pub fn connect(socket: &Path) -> Result<Vici> {
        let stream = UnixStream::connect(socket).context(socket.display())?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Vici { stream })
    }

    /// A command that answers once.
    pub fn call(&mut self, command: &str, message: &Section) -> Result<Section> {
        self.send(REQUEST, command, message)?;
        loop {
            let (kind, _, answer) = self.receive()?;
            match kind {
                RESPONSE => return Ok(answer),
                EVENT => {}
                _ => return Err(Stop::Failed(format!("charon refuses the command {command}"))),
            }
        }
    }

    /// A command whose answer says `success`; its `errmsg` is the error.
    pub fn must(&mut self, command: &str, message: &Section) -> Result {
        let answer = self.call(command, message)?;
        ensure!(answer.text("success") == "yes", "{command}: {}", answer.text("errmsg"));
        Ok(())
    }

    /// A command that tells in events; gives them in order.
    pub fn stream(&mut self, command: &str, event: &str, message: &Section) -> Result<Vec<Section>> {
        self.send(EVENT_REGISTER, event, &Section::new())?;
        ensure!(self.receive()?.0 == EVENT_CONFIRM, "charon knows no event {event}");
        self.send(REQUEST, command, message)?;
        let mut events = Vec::new();
        loop {
            match self.receive()? {
                (EVENT, name, section) if name == event => events.push(section),
                (EVENT, ..) => {}
                (RESPONSE, ..) => break,
                _ => return Err(Stop::Failed(format!("charon refuses the command {command}"))),
            }
        }
        self.send(EVENT_UNREGISTER, event, &Section::new())?;
        while self.receive()?.0 != EVENT_CONFIRM {}
        Ok(events)
    }

    fn send(&mut self, kind: u8, name: &str, message: &Section) -> Result {
        let mut packet = vec![0, 0, 0, 0, kind];
        name_to(&mut packet, name)?;
        emit(&mut packet, message)?;
        let length = u32::try_from(packet.len() - 4).context("length")?;
        packet[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&packet).context("vici")
    }

    fn receive(&mut self) -> Result<(u8, String, Section)> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).context("vici")?;
        let length = u32::from_be_bytes(length) as usize;
        ensure!((1..=PACKET_MAX).contains(&length), "a vici packet of {length} octets");
        let mut packet = vec![0; length];
        self.stream.read_exact(&mut packet).context("vici")?;
        let kind = packet[0];
        let mut reader = Reader(&packet[1..]);
        let name = if kind == EVENT { reader.name()? } else { String::new() };
        Ok((kind, name, parse(&mut reader, false)?))
    }
}

fn emit(out: &mut Vec<u8>, section: &Section) -> Result {
    for (name, item) in &section.0 {
        match item {
            Item::Value(value) => {
                out.push(3);
                name_to(out, name)?;
                value_to(out, value)?;
            }
            Item::List(values) => {
                out.push(4);
                name_to(out, name)?;
                for value in values {
                    out.push(5);
                    value_to(out, value)?;
                }
                out.push(6);
            }
            Item::Section(inner) => {
                out.push(1);
                name_to(out, name)?;
                emit(out, inner)?;
                out.push(2);
            }
        }
    }
    Ok(())
}

fn name_to(out: &mut Vec<u8>, name: &str) -> Result {
    out.push(u8::try_from(name.len()).context("a name too long for vici")?);
    out.extend(name.as_bytes());
    Ok(())
}

fn value_to(out: &mut Vec<u8>, value: &str) -> Result {
    out.extend(u16::try_from(value.len()).context("a value too long for vici")?.to_be_bytes());
    out.extend(value.as_bytes());
    Ok(())
}

fn parse(reader: &mut Reader<'_>, nested: bool) -> Result<Section> {
    let mut section = Section::new();
    while let Some(element) = reader.octet() {
        match element {
            1 => {
                let name = reader.name()?;
                let inner = parse(reader, true)?;
                section.0.push((name, Item::Section(inner)));
            }
            2 if nested => return Ok(section),
            3 => {
                let name = reader.name()?;
                section.0.push((name, Item::Value(reader.value()?)));
            }
            4 => {
                let (name, mut items) = (reader.name()?, Vec::new());
                loop {
                    match reader.octet() {
                        Some(5) => items.push(reader.value()?),
                        Some(6) => break,
                        other => return Err(format!("vici list element {other:?}").into()),
                    }
                }
                section.0.push((name, Item::List(items)));
            }
            other => return Err(format!("vici element {other}").into()),
        }
    }
    ensure!(!nested, "a vici section without an end");
    Ok(section)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn octet(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn name(&mut self) -> Result<String> {
        let length = self.octet().context("the end of a vici packet")?;
        self.take(usize::from(length))
    }

    fn value(&mut self) -> Result<String> {
        let high = self.octet().context("the end of a vici packet")?;
        let low = self.octet().context("the end of a vici packet")?;
        self.take(usize::from(u16::from_be_bytes([high, low])))
    }

    fn take(&mut self, length: usize) -> Result<String> {
        let (text, rest) = self.0.split_at_checked(length).context("the end of a vici packet")?;
        self.0 = rest;
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_can_be_read() {
        let message = Section::new()
            .with("version", "2")
            .with_list("vips", ["0.0.0.0", "::"])
            .with_section("local", Section::new().with("auth", "psk"));
        let mut octets = Vec::new();
        emit(&mut octets, &message).unwrap();
        assert_eq!(parse(&mut Reader(&octets), false).unwrap(), message);
        for end in 1..octets.len() {
            // Every cut is either a shorter message or an error, never a panic.
            let _ = parse(&mut Reader(&octets[..end]), false);
        }
    }
}
