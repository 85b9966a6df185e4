//! Recipes, locks, Debian packages and wheels → a base image.
