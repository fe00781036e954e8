"""What viz draws: panels, the contact sheet, the training curve, the page. Pure: images and records in, images out."""
