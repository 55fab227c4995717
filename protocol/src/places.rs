//! A memory of what was found at places in memory, for the simulator alone.
//!
//! One of two places that fall into one row is forgotten for the other: it is bounded, and quick to ask.

/// What was found, by place. Whoever puts something in keeps what is at the place alive with it, so that
/// nothing else can take the place.
pub(crate) struct Places<V>(Vec<Option<(usize, V)>>);

impl<V> Places<V> {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn get(&self, place: usize) -> Option<&V> {
        let (known, value) = self.0.get(row(place))?.as_ref()?;
        (*known == place).then_some(value)
    }

    pub(crate) fn put(&mut self, place: usize, value: V) {
        if self.0.is_empty() {
            self.0.resize_with(ROWS, || None);
        }
        self.0[row(place)] = Some((place, value));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Neighbouring places fall into rows far apart.
fn row(place: usize) -> usize {
    (place >> 4).wrapping_mul(0x9e37_79b1) % ROWS
}

const ROWS: usize = 1 << 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_found_until_another_takes_its_row() {
        let mut places = Places::new();
        assert_eq!(places.get(16), None);
        (0..100).for_each(|n| places.put(n * 16, n));
        assert_eq!(places.get(16 * 7), Some(&7));
        let other = (1..).map(|n| 16 * (7 + n)).find(|other| row(*other) == row(16 * 7)).unwrap();
        places.put(other, 0);
        assert_eq!((places.get(16 * 7), places.get(other)), (None, Some(&0)));
    }
}
