"""Two small models that work offline: a published encoder from a wheel, plus a delta trained and shipped here."""
