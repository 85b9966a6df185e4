//! `fnbuild serve`: assembles the rooms and stops them in order.
