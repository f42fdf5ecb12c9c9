//! Aggregates by windows of event time: count, sum, least and most of each window, site and type.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::bytes::same;

/// How long a window is, in seconds.
pub(crate) const WINDOW: i64 = 60;

#[derive(Debug, Clone, Copy)]
struct Cell {
    count: u64,
    sum: i128,
    min: i64,
    max: i64,
}

/// There would be more rows than allowed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// A window, a site and a type by their numbers.
type Key = (i64, u32, u32);

/// How many places are kept at hand.
const RECENT: usize = 4096;

/// The rows so far: what memory is needed for, and so their number has a limit.
#[derive(Debug)]
pub(crate) struct Windows {
    cells: Vec<(Key, Cell)>,
    /// The places of all rows in `cells`.
    places: HashMap<Key, usize>,
    /// The places of some: most events are of rows that others were of shortly before.
    recent: Vec<usize>,
    kinds: HashMap<Box<[u8]>, u32>,
    kind_names: Vec<Box<[u8]>>,
    most: usize,
}

impl Windows {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            cells: Vec::new(),
            places: HashMap::new(),
            recent: vec![usize::MAX; RECENT],
            kinds: HashMap::new(),
            kind_names: Vec::new(),
            most,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.cells.len()
    }

    /// The number of a type. There are few in most inputs, so those that came first are looked through.
    #[inline(always)]
    fn kind(&mut self, name: &[u8]) -> u32 {
        for (number, known) in (0..4).zip(&self.kind_names) {
            if same(known, name) {
                return number;
            }
        }
        self.rare_kind(name)
    }

    #[cold]
    fn rare_kind(&mut self, name: &[u8]) -> u32 {
        if let Some(known) = self.kinds.get(name) {
            return *known;
        }
        // Each has a row, and those have a limit far below 2³².
        let new = u32::try_from(self.kind_names.len()).unwrap_or(u32::MAX);
        self.kinds.insert(name.into(), new);
        self.kind_names.push(name.into());
        new
    }

    /// Takes in an event's value.
    #[inline(never)]
    pub(crate) fn add(&mut self, seconds: i64, site: u32, kind: &[u8], value: i64) -> Result<(), TooMany> {
        let key @ (window, _, kind) = (seconds.div_euclid(WINDOW), site, self.kind(kind));
        let hint = (u64::from(site) << 2 ^ u64::from(kind) ^ window.cast_unsigned() << 8) % RECENT as u64;
        let place = self.recent.get(usize::try_from(hint).unwrap_or(0)).copied().unwrap_or(usize::MAX);
        let cell = match self.cells.get_mut(place) {
            Some((found, cell)) if *found == key => cell,
            _ => self.looked_for(key, hint)?,
        };
        cell.count += 1;
        cell.sum += i128::from(value);
        cell.min = cell.min.min(value);
        cell.max = cell.max.max(value);
        Ok(())
    }

    #[cold]
    fn looked_for(&mut self, key: Key, hint: u64) -> Result<&mut Cell, TooMany> {
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None if self.cells.len() == self.most => return Err(TooMany),
            None => {
                self.cells.push((key, Cell { count: 0, sum: 0, min: i64::MAX, max: i64::MIN }));
                self.places.insert(key, self.cells.len() - 1);
                self.cells.len() - 1
            }
        };
        if let Some(recent) = self.recent.get_mut(usize::try_from(hint).unwrap_or(0)) {
            *recent = place;
        }
        self.cells.get_mut(place).map(|(_, cell)| cell).ok_or(TooMany)
    }

    /// The rows as CSV, in order of time, site and type.
    pub(crate) fn csv(&self, sites: &[String]) -> Vec<u8> {
        let mut rows: Vec<_> = self
            .cells
            .iter()
            .filter_map(|&((window, site, kind), cell)| {
                let site = sites.get(usize::try_from(site).ok()?)?.as_bytes();
                Some((window, site, &**self.kind_names.get(usize::try_from(kind).ok()?)?, cell))
            })
            .collect();
        rows.sort_unstable_by_key(|&(window, site, kind, _)| (window, site, kind));
        let mut csv = b"window,site,type,count,sum,min,max\n".to_vec();
        let mut numbers = String::new();
        for (window, site, kind, Cell { count, sum, min, max }) in rows {
            numbers.clear();
            let _ = write!(numbers, "{},", window * WINDOW);
            csv.extend(numbers.as_bytes());
            write_field(site, &mut csv);
            csv.push(b',');
            write_field(kind, &mut csv);
            numbers.clear();
            let _ = writeln!(numbers, ",{count},{sum},{min},{max}");
            csv.extend(numbers.as_bytes());
        }
        csv
    }
}

/// A field as RFC 4180 has it: in quotes only where it must be.
fn write_field(field: &[u8], csv: &mut Vec<u8>) {
    if !field.iter().any(|byte| matches!(byte, b',' | b'"' | b'\r' | b'\n')) {
        csv.extend(field);
        return;
    }
    csv.push(b'"');
    for &byte in field {
        if byte == b'"' {
            csv.push(b'"');
        }
        csv.push(byte);
    }
    csv.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_sums_are_wide() {
        let mut windows = Windows::new(10);
        let sites = ["b".to_owned(), "a".to_owned()];
        for (seconds, site, kind, value) in [
            (119, 0, "t", i64::MAX),
            (60, 0, "t", i64::MAX),
            (60, 1, "u,\"", -1),
            (60, 1, "t", 5),
            (-1, 0, "v", 7),
            (120, 0, "k4", 1),
            (120, 0, "k5", 1),
            (120, 0, "k5", 2),
        ] {
            windows.add(seconds, site, kind.as_bytes(), value).unwrap();
        }
        let csv = "window,site,type,count,sum,min,max\n-60,b,v,1,7,7,7\n60,a,t,1,5,5,5\n60,a,\"u,\"\"\",1,-1,-1,-1\n\
            60,b,t,2,18446744073709551614,9223372036854775807,9223372036854775807\n120,b,k4,1,1,1,1\n120,b,k5,2,3,1,2\n";
        assert_eq!(String::from_utf8(windows.csv(&sites)).unwrap(), csv);
        assert_eq!(windows.rows(), 6);
    }

    #[test]
    fn more_rows_than_allowed_are_refused_and_more_events_are_not() {
        let mut windows = Windows::new(1);
        assert_eq!(windows.add(0, 0, b"t", 1), Ok(()));
        assert_eq!(windows.add(1, 0, b"t", 1), Ok(()));
        assert_eq!(windows.add(60, 0, b"t", 1), Err(TooMany));
    }
}
