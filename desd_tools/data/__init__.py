"""Data from elsewhere: downloads, and data sets that need work before they are volumes."""
