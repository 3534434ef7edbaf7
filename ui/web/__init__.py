"""The web server around the page: headers, compression, uploads, and limits for each visitor."""
