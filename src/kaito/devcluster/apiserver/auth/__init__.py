"""Who is asking, and whether they may: tokens, impersonation, RBAC and the review APIs."""
