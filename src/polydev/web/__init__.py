"""The dashboard: pages for a person's browser, kept true by notices. It knows no rules of its own."""
