//! The management REST API: `/v1/…` and `/system/…`.
