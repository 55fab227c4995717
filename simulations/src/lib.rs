//! What doubts the project: `swell-bench` measures a fleet of the real programs against the numbers
//! that the README promises.

pub mod scale;
