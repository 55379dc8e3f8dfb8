//! Moments: intervals, each inside and outside of a selection. Most batches and row groups have a few.

use std::cell::OnceCell;

use datafusion::common::HashMap;

/// The different moments so far.
#[derive(Debug, Default)]
pub(super) struct DistinctMoments {
    all: Vec<u32>,
    places: HashMap<u32, u32>,
    last: Option<(u32, u32)>,
}

impl DistinctMoments {
    /// Where a moment is among the different ones; neighbours mostly have the same.
    pub(super) fn place_of(&mut self, moment: u32) -> u32 {
        let place = match self.last {
            Some((last, place)) if last == moment => place,
            _ => *self.places.entry(moment).or_insert_with(|| {
                self.all.push(moment);
                self.all.len() as u32 - 1
            }),
        };
        self.last = Some((moment, place));
        place
    }

    /// All of them, place by place.
    pub(super) fn all(&self) -> &[u32] {
        &self.all
    }
}

/// The moments of the rows of a batch.
#[derive(Debug)]
pub(super) struct Moments {
    by_row: Vec<u32>,
    /// The different ones, and by row which of them it is: for batches with values to count.
    places: OnceCell<(DistinctMoments, Vec<u32>)>,
}

impl Moments {
    /// Those of these rows.
    pub(super) fn of(by_row: Vec<u32>) -> Self {
        Self { by_row, places: OnceCell::new() }
    }

    /// The moment of each row.
    pub(super) fn by_row(&self) -> &[u32] {
        &self.by_row
    }

    /// The different ones.
    pub(super) fn distinct(&self) -> &[u32] {
        self.known().0.all()
    }

    /// By row: which of the different ones it is.
    pub(super) fn places(&self) -> &[u32] {
        &self.known().1
    }

    fn known(&self) -> &(DistinctMoments, Vec<u32>) {
        self.places.get_or_init(|| {
            let mut distinct = DistinctMoments::default();
            let places = self.by_row.iter().map(|moment| distinct.place_of(*moment)).collect();
            (distinct, places)
        })
    }
}
