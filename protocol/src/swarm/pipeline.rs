//! How many frames a host asks for at a time: as many as keep its link busy, and hardly more.
//!
//! What is asked for and has not come waits somewhere, and every frame behind it waits with it, on
//! each hop of its way through the fleet. The shortest answers tell how long a frame travels; what
//! answers take beyond that is waiting. A round of answers with little waiting widens the pipeline by
//! one frame, one with much narrows it; before anything waited for the first time it is doubled.

use std::time::Duration;

use crate::limits::{FETCH_DELAY_MAX, FETCHES_MAX, FETCHES_MIN, FETCHES_WAITING_MAX};

/// The window of a host's asks.
#[derive(Debug)]
pub(super) struct Pipeline {
    window: usize,
    /// The shortest answers of this spell and the one before.
    quickest: [Duration; 2],
    answers_of_spell: u32,
    round: Round,
    /// Nothing has waited yet.
    opening: bool,
}

/// Answers since the window was last judged.
#[derive(Debug, Default)]
struct Round {
    answers: u32,
    took: Duration,
}

impl Pipeline {
    pub(super) fn new() -> Self {
        let quickest = [Duration::MAX; 2];
        let round = Round::default();
        Self { window: FETCHES_MIN, quickest, answers_of_spell: 0, round, opening: true }
    }

    /// How many frames may be under way.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// An answer came. `full` if as many were under way as may be: only then does it tell whether
    /// more would help.
    pub(super) fn answered(&mut self, took: Duration, full: bool) {
        if self.answers_of_spell == SPELL_ANSWERS {
            self.quickest = [took, self.quickest[0]];
            self.answers_of_spell = 0;
        }
        self.answers_of_spell += 1;
        self.quickest[0] = self.quickest[0].min(took);
        self.round.answers += 1;
        self.round.took += took;
        if usize::try_from(self.round.answers).is_ok_and(|answers| answers >= self.window) {
            self.judge(full);
        }
    }

    fn judge(&mut self, full: bool) {
        let Round { answers, took } = std::mem::take(&mut self.round);
        let average = took / answers;
        let quickest = self.quickest[0].min(self.quickest[1]);
        let window = u128::try_from(self.window).unwrap_or(u128::MAX);
        let waiting = window * average.saturating_sub(quickest).as_micros();
        let waiting = waiting / average.as_micros().max(1);
        let most = u128::try_from(FETCHES_WAITING_MAX).unwrap_or(u128::MAX);
        self.opening &= waiting < most / 2;
        if average > FETCH_DELAY_MAX || waiting > most {
            self.window = FETCHES_MIN.max(self.window - 1);
        } else if full && waiting < most {
            let more = if self.opening { self.window } else { 1 };
            self.window = FETCHES_MAX.min(self.window + more);
        }
    }
}

const SPELL_ANSWERS: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// A link that carries a frame in `frame` after `trip`, with nothing else on it.
    fn settled(frame: Duration, trip: Duration) -> usize {
        let mut pipeline = Pipeline::new();
        for answer in 0..5000 {
            // Now and then a peer has nothing else to do.
            let busy = u32::from(answer % 4 > 0);
            let queued = frame * busy * u32::try_from(pipeline.window()).unwrap();
            pipeline.answered(queued.max(frame + trip), true);
        }
        pipeline.window()
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_long_way_takes_many_frames_and_a_short_one_few() {
        let near = settled(5 * MS, MS);
        assert!((FETCHES_MIN..=FETCHES_WAITING_MAX + 2).contains(&near), "{near} frames");
        let far = settled(2 * MS, 50 * MS);
        assert!((26..=38).contains(&far), "{far} frames of 2 ms cover 52 ms");
        assert_eq!(settled(MS / 10, 100 * MS), FETCHES_MAX);
    }

    #[test]
    fn slow_answers_narrow_it_however_little_waits() {
        let mut pipeline = Pipeline::new();
        (0..200).for_each(|_| pipeline.answered(100 * MS, true));
        assert!(pipeline.window() > FETCHES_MIN + 4);
        (0..3000).for_each(|_| pipeline.answered(FETCH_DELAY_MAX + MS, true));
        assert_eq!(pipeline.window(), FETCHES_MIN);
    }

    #[test]
    fn a_window_that_is_not_used_does_not_widen() {
        let mut pipeline = Pipeline::new();
        (0..200).for_each(|_| pipeline.answered(10 * MS, false));
        assert_eq!(pipeline.window(), FETCHES_MIN);
    }
}
