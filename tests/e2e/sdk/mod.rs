//! The SDKs, each against a real node.

mod examples;
mod rust;
