//! Numbers beside what they are meant to be.

/// A number and what it is meant to be.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) what: String,
    pub(crate) got: f64,
    pub(crate) goal: Goal,
    pub(crate) unit: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// It is shown beside another one.
    None,
}

impl Measured {
    pub(crate) fn holds(&self) -> bool {
        match self.goal {
            Goal::AtMost(most) => self.got <= most,
            Goal::AtLeast(least) => self.got >= least,
            Goal::None => true,
        }
    }

    pub(crate) fn row(&self) -> String {
        let goal = match self.goal {
            Goal::AtMost(most) => format!("at most {most} {}", self.unit),
            Goal::AtLeast(least) => format!("at least {least} {}", self.unit),
            Goal::None => String::new(),
        };
        let verdict = if self.holds() { "" } else { " **missed**" };
        format!("| {} | {:.3} {} | {goal}{verdict} |", self.what, self.got, self.unit)
    }
}
