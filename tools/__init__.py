"""For maintainers: notebook files, README, pages, and the generators of data. No notebook imports anything of it."""
