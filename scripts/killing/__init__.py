"""What a killed command leaves, compared with an uninterrupted one."""
