//! Who may say what, and how it is known that they said it.
//!
//! Signed bytes are opaque until they are verified: [`Signed`] has no accessor, [`Verified`] is the
//! only way to the content, and [`Trust`] knows which keys may sign which kind of document. Two
//! signatures are needed to run anything: a [`Release`] says that the content may exist, an
//! [`Order`] says that a group moves to it now.

mod documents;
mod envelope;
mod join;
mod keys;
mod member;
mod orders;
mod root;
mod voters;

pub use documents::{
    Counted, Document, Done, Genesis, HostSigned, Invalid, Outcome, Receipt, Release, Subject,
    Voter, Want, fit_text,
};
pub(crate) use envelope::Bare;
pub use envelope::{Signed, Untrusted, Verified};
pub use join::{Enrolment, Invitation, InvitationRefused, token_key};
#[cfg(feature = "simulation")]
pub use keys::memo;
pub use keys::{KeySet, SecretKey, Signer, SignerError};
pub use member::{Member, MemberCert, MemberRefused, Token};
pub use orders::{Action, Deploy, Drain, Group, Order, Removal};
pub use root::{Role, Roles, Root, RootRefused, Trust, TrustBundle};
pub use voters::{Base, Electorate, NotVouched, VoterList, Voters, VotersRefused};

#[cfg(test)]
mod tests;
