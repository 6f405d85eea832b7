"""The store as it grows: what lies in it, what it takes, whether it is whole, what may go."""
