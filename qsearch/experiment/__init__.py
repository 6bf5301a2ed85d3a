"""All that touches Ax and its database: node, client, transactions, lease, trials as a table."""
