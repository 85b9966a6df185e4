//! `FunctionStore`: where records are kept.
