"""What comes from elsewhere and goes elsewhere: judged tables, questions, adapters, whole runs, Inspect's logs. Torch-free to import."""
