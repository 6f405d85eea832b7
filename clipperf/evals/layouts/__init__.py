"""The layouts of datasets: one file each, which holds the record `LAYOUT`."""
