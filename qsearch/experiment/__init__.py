"""All that touches Ax and its database: node, client, transactions, lock, trials as a table."""
