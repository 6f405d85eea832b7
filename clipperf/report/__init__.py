"""From stored results to tables, findings, sizing and pages; nothing here measures."""
