//! The reference table: which site and zone a source is of.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use crate::bytes::{hash, same};
use crate::failure::Failure;
use crate::json::write_escaped;

const HEADER: &str = "source,site,zone";

/// What is known of a source.
#[derive(Debug)]
pub(crate) struct Device {
    source: Box<[u8]>,
    /// The place of its site in [`Reference::sites`].
    pub(crate) site: u32,
    /// The part of an enriched line that is the same for all its events: from after the time to before the value.
    pub(crate) middle: Vec<u8>,
}

/// All sources that are known.
#[derive(Debug, Default)]
pub(crate) struct Reference {
    devices: Vec<Device>,
    /// Places in `devices` and one more, or 0, by the hash of the source; of each two at least one is 0.
    slots: Vec<u32>,
    pub(crate) sites: Vec<String>,
}

impl Reference {
    /// Reads the table in a file.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let attempted = || format!("read the reference table {}", path.display());
        let next = "give a file with lines `source,site,zone`, and that as its first line";
        let bytes = fs::read(path).map_err(|error| Failure::new(attempted(), error.to_string(), next))?;
        let text = String::from_utf8(bytes).map_err(|error| Failure::new(attempted(), error.to_string(), next))?;
        Self::parse(&text).map_err(|why| Failure::new(attempted(), why, next))
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut reference = Self::default();
        let mut numbers: HashMap<String, u32> = HashMap::new();
        let mut sources = HashSet::new();
        let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
        if lines.next() != Some(HEADER) {
            return Err(format!("its first line is not `{HEADER}`"));
        }
        for (line, number) in lines.zip(2_u64..) {
            let fields: Vec<&str> = line.split(',').collect();
            let &[source, site, zone] = fields.as_slice() else {
                return Err(format!("line {number} has {} fields, not 3", fields.len()));
            };
            if fields.iter().any(|field| field.is_empty() || field.contains(['"', '\r'])) {
                return Err(format!("line {number} has a field that is empty or holds a quote or a carriage return"));
            }
            let site_number = match numbers.get(site) {
                Some(known) => *known,
                None => {
                    let new = u32::try_from(reference.sites.len()).map_err(|_| "it has too many sites".to_owned())?;
                    reference.sites.push(site.to_owned());
                    numbers.insert(site.to_owned(), new);
                    new
                }
            };
            let mut middle = b"\",\"site\":\"".to_vec();
            write_escaped(site.as_bytes(), &mut middle);
            middle.extend(b"\",\"zone\":\"");
            write_escaped(zone.as_bytes(), &mut middle);
            middle.extend(b"\",\"data\":{\"value\":");
            if !sources.insert(source) {
                return Err(format!("line {number} has the source `{source}` again"));
            }
            reference.devices.push(Device { source: source.as_bytes().into(), site: site_number, middle });
        }
        reference.index()?;
        Ok(reference)
    }

    fn index(&mut self) -> Result<(), String> {
        self.slots = vec![0; (self.devices.len() * 2).next_power_of_two().max(2)];
        for (device, number) in self.devices.iter().zip(1..) {
            let mut at = self.slot(&device.source);
            while self.slots.get(at).is_some_and(|taken| *taken != 0) {
                at = (at + 1) & (self.slots.len() - 1);
            }
            let slot = self.slots.get_mut(at).ok_or("it has too many sources")?;
            *slot = number;
        }
        Ok(())
    }

    /// Where to begin to look for it.
    fn slot(&self, source: &[u8]) -> usize {
        // As many bits as number the slots, of which there are two at least.
        usize::try_from(hash(source) >> (64 - self.slots.len().ilog2())).unwrap_or(0)
    }

    #[inline(never)]
    pub(crate) fn device(&self, source: &[u8]) -> Option<&Device> {
        let mut at = self.slot(source);
        loop {
            let number = usize::try_from(*self.slots.get(at)?).ok()?;
            let device = self.devices.get(number.checked_sub(1)?)?;
            if same(&device.source, source) {
                return Some(device);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read() {
        let reference = Reference::parse("source,site,zone\n/a,north,z1\n/b,\\,z 2\n/c,north,z3\n").unwrap();
        assert_eq!(reference.sites, ["north", "\\"]);
        let middle =
            |source: &str| String::from_utf8(reference.device(source.as_bytes()).unwrap().middle.clone()).unwrap();
        assert_eq!(middle("/b"), r#"","site":"\\","zone":"z 2","data":{"value":"#);
        assert_eq!(reference.device(b"/c").unwrap().site, 0);
        assert!(reference.device(b"/d").is_none());
        assert!(Reference::parse("source,site,zone").unwrap().sites.is_empty());
        assert!(Reference::parse("source,site,zone").unwrap().device(b"/a").is_none());
    }

    #[test]
    fn every_source_of_a_large_table_is_found() {
        let text: String = (0..5000).map(|number| format!("/dev-{number},site-{},z\n", number % 7)).collect();
        let reference = Reference::parse(&format!("source,site,zone\n{text}")).unwrap();
        for number in 0..5000 {
            let device = reference.device(format!("/dev-{number}").as_bytes()).unwrap();
            assert_eq!(reference.sites[device.site as usize], format!("site-{}", number % 7));
            assert!(reference.device(format!("/dev-{number}x").as_bytes()).is_none());
        }
    }

    #[test]
    fn a_table_that_is_none_is_refused_with_the_line() {
        for (text, why) in [
            ("", "first line"),
            ("source;site;zone\n", "first line"),
            ("source,site,zone\r\n/a,b,c\r\n", "first line"),
            ("source,site,zone\n/a,b\n", "line 2 has 2 fields"),
            ("source,site,zone\n/a,b,c\n\n", "line 3 has 1 fields"),
            ("source,site,zone\n/a,,c\n", "line 2 has a field that is empty"),
            ("source,site,zone\n/a,\"b\",c\n", "line 2 has a field"),
            ("source,site,zone\n/a,b,c\n/a,b,d\n", "line 3 has the source `/a` again"),
        ] {
            let said = Reference::parse(text).unwrap_err();
            assert!(said.contains(why), "{text:?}: {said}");
        }
    }
}
