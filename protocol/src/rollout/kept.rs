//! A part of the state that many hold and few change.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value that is copied when it is changed, and only if somebody else holds it as well. So a copy of
/// a whole ledger costs next to nothing, and a change costs what it changes.
pub struct Kept<T>(Arc<T>);

impl<T> Kept<T> {
    /// True if both are the same value in one place. Values in two places may be equal all the same.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> From<T> for Kept<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T: Default> Default for Kept<T> {
    fn default() -> Self {
        T::default().into()
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<T: PartialEq> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        self.is(other) || self.0 == other.0
    }
}

impl<T: Eq> Eq for Kept<T> {}

impl<T: fmt::Debug> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'a, T> IntoIterator for &'a Kept<T>
where
    &'a T: IntoIterator,
{
    type Item = <&'a T as IntoIterator>::Item;
    type IntoIter = <&'a T as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        (&**self).into_iter()
    }
}

impl<T: Serialize> Serialize for Kept<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Kept<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor;

    #[test]
    fn a_change_is_nobody_elses() {
        let one = Kept::from(vec![1, 2]);
        let mut other = one.clone();
        assert!(one.is(&other));
        other.push(3);
        assert_eq!((one.len(), other.len()), (2, 3));
        assert_ne!(one, other);
        other.pop();
        assert_eq!(one, other);
        assert!(!one.is(&other));
    }

    #[test]
    fn who_holds_it_alone_copies_nothing() {
        let mut alone = Kept::from(vec![1, 2]);
        let before = alone.as_ptr();
        alone[0] = 7;
        assert_eq!((alone.as_ptr(), alone[0]), (before, 7));
    }

    #[test]
    fn it_is_written_like_what_it_holds() {
        let kept = Kept::from(vec![1_u8, 2]);
        assert_eq!(cbor::encode(&kept), cbor::encode(&*kept));
        assert_eq!(cbor::decode::<Kept<Vec<u8>>>(&cbor::encode(&kept), 64).unwrap(), kept);
    }
}
