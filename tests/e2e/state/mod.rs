//! States: the folder door, classes and their guarantees, with and without a node.

mod classes;
mod folder;
mod keys;
mod power;
